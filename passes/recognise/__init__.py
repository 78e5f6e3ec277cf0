"""Subgraphs that compute a well-known function become its operator."""

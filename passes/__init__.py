"""Passes over the graph, one a file; ``catalogue`` registers them and ``pipelines`` orders them."""

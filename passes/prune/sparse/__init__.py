"""Zeros in weights that stay where they are."""

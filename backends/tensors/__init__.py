"""Lazy tensors, the scalar arithmetic that their elements are made of, and the loops that store them."""

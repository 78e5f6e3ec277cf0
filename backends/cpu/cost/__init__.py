"""Predicted times of kernels on CPUs."""

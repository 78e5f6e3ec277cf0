"""What kernels are asked to compute, whatever the target and the algorithm."""

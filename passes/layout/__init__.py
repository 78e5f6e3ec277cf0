"""Memory layouts of values between kernels."""

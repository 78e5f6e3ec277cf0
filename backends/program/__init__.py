"""From the fused graph to a program: groups become kernels, values become buffers, and the program becomes a TVM module."""

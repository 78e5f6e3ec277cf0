"""Loops of CUDA kernels; templates beside this folder say which calls they compute."""

"""CUDA kernels on a CPU: a functional simulator of a GPU, and a driver of simulated GPUs for TVM's own CUDA runtime.

``toolchain`` compiles, ``simulator`` runs one kernel on numpy arrays and checks every access, ``images`` makes graphopt compile for
simulated GPUs, ``gpu`` runs whole artefacts in a process whose CUDA driver is the simulated one. What the C++ parts do is written
down in ``docs/guides/cuda-without-a-gpu.md``.
"""

"""The GPUs of this machine: which there are, and what running models on them takes of CUDA's libraries."""

"""How long kernels of GPUs take, by what their instructions and bytes take at best. Predictions, not measurements."""

"""Post-training quantization of models: ``graphopt.quantize``."""

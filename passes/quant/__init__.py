"""Post-training quantization: which values are stored in integers, in which ranges, and the QuantizeLinear and DequantizeLinear
that say so (ADR 17). What needs data is handed in by ``graphopt.driver.quantize``."""

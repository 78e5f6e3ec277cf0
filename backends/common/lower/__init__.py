"""How ai.onnx operators become lazy tensors, one file per family. Importing the package fills the table."""

from graphopt.backends.common.lower import elementwise, linear, movement, reduce

__all__ = ["elementwise", "linear", "movement", "reduce"]

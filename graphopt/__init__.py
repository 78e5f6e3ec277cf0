"""graphopt: a graph-level model compiler for ONNX."""

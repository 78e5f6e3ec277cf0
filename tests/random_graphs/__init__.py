"""Random valid ONNX graphs, compiled at several levels and compared with ONNX Runtime without graph optimisation."""

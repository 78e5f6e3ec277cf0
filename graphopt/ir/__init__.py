"""Typed graph IR: values with symbolic shapes, nodes that are ai.onnx operators, one mutator, one verifier."""

"""Conformance with ONNX: its whole backend test-suite through graphopt."""

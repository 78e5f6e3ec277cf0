"""Operators of ONNX Runtime's domain (com.microsoft) and quantized operators of ai.onnx as plain operators, a file a family."""

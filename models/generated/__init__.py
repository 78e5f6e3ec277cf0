"""Architectures that no package ships as ONNX, written here with seeded weights, in the operators that exporters write."""

from graphopt.models.generated.provider import GeneratedModel

__all__ = ["GeneratedModel"]

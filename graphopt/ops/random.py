"""Operators whose result is not a function of their inputs."""

from __future__ import annotations

from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import RANDOM, register


@register("RandomNormal", "RandomUniform", traits=(RANDOM,))
def _random(c: InferContext) -> list[Type]:
    return [TensorType(DType.from_onnx(int(c.attr("dtype"))), tuple(int(d) for d in c.attr("shape")))]


@register("RandomNormalLike", "RandomUniformLike", "Bernoulli", traits=(RANDOM,))
def _like(c: InferContext) -> list[Type]:
    code = c.attr("dtype")
    return [TensorType(DType.from_onnx(int(code)) if code else c.dtype(0), c.shape(0))]


@register("Multinomial", traits=(RANDOM,))
def _multinomial(c: InferContext) -> list[Type]:
    return [TensorType(DType.from_onnx(int(c.attr("dtype"))), (c.shape(0)[0], int(c.attr("sample_size"))))]

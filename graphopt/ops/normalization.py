"""Normalisations and softmax."""

from __future__ import annotations

from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import REDUCTION, register


@register("BatchNormalization")
def _batch_norm(c: InferContext) -> list[Type]:
    return [c.type(0), c.type(3), c.type(4)] if c.attr("training_mode") else [c.type(0)]


@register("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", traits=(REDUCTION,))
def _along_axis(c: InferContext) -> list[Type]:
    c.axis(int(c.attr("axis")), c.rank(0))
    return [c.type(0)]


@register("RMSNormalization", traits=(REDUCTION,))
def _rms_norm(c: InferContext) -> list[Type]:
    c.broadcast_to(c.shape(1), c.shape(0), "the scale")
    return _along_axis(c)


@register("InstanceNormalization", "GroupNormalization", "LRN", "MeanVarianceNormalization", traits=(REDUCTION,))
def _same(c: InferContext) -> list[Type]:
    return [c.type(0)]


@register("LayerNormalization", traits=(REDUCTION,))
def _layer_norm(c: InferContext) -> list[Type]:
    x = c.type(0)
    axis = c.axis(int(c.attr("axis")), c.rank(0))
    c.broadcast_to(c.shape(1), c.shape(0), "the scale")
    if c.has(2):
        c.broadcast_to(c.shape(2), c.shape(0), "the bias")
    stat = TensorType(DType.from_onnx(int(c.attr("stash_type"))), (*c.shape(0)[:axis], *([1] * (c.rank(0) - axis))))
    return [x, stat, stat]

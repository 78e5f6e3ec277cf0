"""Normalisations and softmax."""

from __future__ import annotations

from graphopt.ir.dims import mod
from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANY_LAYOUT, NORMALISES, REDUCTION, SOFTMAX, register


@register("BatchNormalization", traits=(ANY_LAYOUT,))
def _batch_norm(c: InferContext) -> list[Type]:
    _by_channel(c, "scale", "bias", "mean", "variance")
    return [c.type(0), c.type(3), c.type(4)] if c.attr("training_mode") else [c.type(0)]


@register("Softmax", "LogSoftmax", traits=(REDUCTION, SOFTMAX))
@register("Hardmax", "LpNormalization", traits=(REDUCTION,))
def _along_axis(c: InferContext) -> list[Type]:
    c.axis(int(c.attr("axis")), c.rank(0))
    return [c.type(0)]


@register("RMSNormalization", traits=(REDUCTION, NORMALISES))
def _rms_norm(c: InferContext) -> list[Type]:
    c.broadcast_to(c.shape(1), c.shape(0), "the scale")
    return _along_axis(c)


@register("InstanceNormalization", traits=(REDUCTION, NORMALISES))
def _instance_norm(c: InferContext) -> list[Type]:
    _by_channel(c, "scale", "bias")
    return [c.type(0)]


@register("GroupNormalization", traits=(REDUCTION, NORMALISES))
def _group_norm(c: InferContext) -> list[Type]:
    _by_channel(c, "scale", "bias")
    groups, channels = int(c.attr("num_groups")), c.shape(0)[1]
    if groups < 1:
        raise c.invalid(f"{groups} groups")
    c.assume_equal(mod(channels, groups), 0, f"the channels divide into {groups} groups")
    return [c.type(0)]


def _by_channel(c: InferContext, *operands: str) -> None:
    """Operands from the second on have one element for each channel. A kernel reads them at the channel's place."""
    channels = c.shape(0)[1] if c.rank(0) > 1 else 1
    for i, name in enumerate(operands, 1):
        c.assume_shape(i, (channels,), f"one {name} for each channel")


@register("LRN", traits=(REDUCTION, ANY_LAYOUT))
@register("MeanVarianceNormalization", traits=(REDUCTION,))
def _same(c: InferContext) -> list[Type]:
    return [c.type(0)]


@register("LayerNormalization", traits=(REDUCTION, NORMALISES))
def _layer_norm(c: InferContext) -> list[Type]:
    x = c.type(0)
    axis = c.axis(int(c.attr("axis")), c.rank(0))
    c.broadcast_to(c.shape(1), c.shape(0), "the scale")
    if c.has(2):
        c.broadcast_to(c.shape(2), c.shape(0), "the bias")
    stat = TensorType(DType.from_onnx(int(c.attr("stash_type"))), (*c.shape(0)[:axis], *([1] * (c.rank(0) - axis))))
    return [x, stat, stat]

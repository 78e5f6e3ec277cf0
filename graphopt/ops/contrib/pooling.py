"""Pools of integers with scales, and pools of data whose channels are last."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ops.contrib.affine import dequantized, quantized
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.channels_last import channels_first, spatial_rank
from graphopt.ops.contrib.table import becomes_plain

_OPERANDS = "X x_scale x_zero_point? y_scale y_zero_point?"
_WINDOW = ("auto_pad", "ceil_mode", "kernel_shape", "pads", "strides")


def _pool(b: Builder, op: str, attributes: Sequence[str]) -> Sequence[Value]:
    x = b.x("X")
    spatial_rank(b, x)

    def pooled(data: Value) -> Value:
        numbers = dequantized(b, data, b.x("x_scale"), b.option("x_zero_point"))
        means = b.emit(op, [numbers], b.kept(*attributes))
        return quantized(b, means, b.x("y_scale"), b.option("y_zero_point"), b.dtype(x))

    return [channels_first(b, x, b.flag("channels_last"), pooled)]


@becomes_plain(
    "QLinearAveragePool",
    operands=_OPERANDS,
    attributes="auto_pad ceil_mode channels_last count_include_pad kernel_shape pads strides",
)
def average_pool(b: Builder) -> Sequence[Value]:
    """``Y = quantize(AveragePool(dequantize(X)))``; padding that is counted is the number 0, not the integer."""
    b.needed("kernel_shape")
    return _pool(b, "AveragePool", (*_WINDOW, "count_include_pad"))


@becomes_plain("QLinearGlobalAveragePool", operands=_OPERANDS, attributes="channels_last")
def global_average_pool(b: Builder) -> Sequence[Value]:
    """``Y = quantize(GlobalAveragePool(dequantize(X)))``."""
    return _pool(b, "GlobalAveragePool", ())


@becomes_plain("NhwcMaxPool", operands="x", attributes="auto_pad ceil_mode dilations kernel_shape pads strides")
def max_pool(b: Builder) -> Sequence[Value]:
    """MaxPool of integers, channels last."""
    b.needed("kernel_shape")
    x, attributes = b.x("x"), b.kept(*_WINDOW, "dilations")
    return [channels_first(b, x, True, lambda data: b.emit("MaxPool", [data], attributes))]

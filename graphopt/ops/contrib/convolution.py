"""Convolutions of integers with scales, convolutions with an activation, and those of data whose channels are last."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ops.contrib.activations import activated
from graphopt.ops.contrib.affine import dequantized, is_single, quantized
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.channels_last import channels_first
from graphopt.ops.contrib.table import becomes_plain

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_ATTRIBUTES = " ".join(_WINDOW)


@becomes_plain(
    "QLinearConv",
    operands="x x_scale x_zero_point w w_scale w_zero_point y_scale y_zero_point B?",
    attributes=f"{_ATTRIBUTES} channels_last",
)
def microsoft_convolution(b: Builder) -> Sequence[Value]:
    """As of ai.onnx, but also with channels last; the weight is [output, input, ...] in both."""
    return _quantized_convolution(b, b.flag("channels_last"))


@becomes_plain(
    "QLinearConv",
    domain="",
    operands="x x_scale x_zero_point w w_scale w_zero_point y_scale y_zero_point B?",
    attributes=_ATTRIBUTES,
)
def convolution(b: Builder) -> Sequence[Value] | None:
    """``y = quantize(Conv(dequantize(x), dequantize(w)) + B * x_scale * w_scale)``.

    Where scales or the weight are computed at run time no kernel of integers takes that form, and the operator stays: its own sums
    are exact.
    """
    names = ("w", "x_scale", "x_zero_point", "w_scale", "w_zero_point", "y_scale", "y_zero_point")
    if any(b.x(name).data is None for name in names) or not is_single(b, b.x("x_scale")):
        return None
    return _quantized_convolution(b, False)


def _quantized_convolution(b: Builder, channels_last: bool) -> Sequence[Value]:
    weight = dequantized(b, b.x("w"), b.x("w_scale"), b.x("w_zero_point"), 0)
    bias = b.option("B")
    if bias is not None:
        # of bias and weight, the first axis holds the output channels
        bias = dequantized(b, bias, b.product(b.x("w_scale"), b.reshaped(b.x("x_scale"), ())), None, 0)

    def convolved(data: Value) -> Value:
        numbers = dequantized(b, data, b.x("x_scale"), b.x("x_zero_point"))
        sums = b.emit("Conv", [numbers, weight, bias], b.kept(*_WINDOW))
        return quantized(b, sums, b.x("y_scale"), b.x("y_zero_point"), b.dtype(b.x("y_zero_point")))

    return [channels_first(b, b.x("x"), channels_last, convolved)]


@becomes_plain("FusedConv", operands="X W B? Z?", attributes=f"{_ATTRIBUTES} activation activation_params")
def fused_convolution(b: Builder) -> Sequence[Value]:
    """``Y = activation(Conv(X, W, B) + Z)``."""
    sums = b.emit("Conv", [b.x("X"), b.x("W"), b.option("B")], b.kept(*_WINDOW))
    other = b.option("Z")
    if other is not None:
        sums = b.emit("Add", [sums, other])
    return [activated(b, sums, b.text("activation", ""), b.numbers("activation_params"))]


@becomes_plain("NhwcConv", operands="X W B?", attributes=_ATTRIBUTES)
def convolution_of_channels_last(b: Builder) -> Sequence[Value]:
    """Conv of data whose channels are last, with the weight of Conv."""
    attributes = b.kept(*_WINDOW)
    return [channels_first(b, b.x("X"), True, lambda x: b.emit("Conv", [x, b.x("W"), b.option("B")], attributes))]

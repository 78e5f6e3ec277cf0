"""Integers that stand for numbers by a scale and a zero point, read by DequantizeLinear and written by QuantizeLinear."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.contrib.builder import Builder

_DEFAULT_AXIS = 1
"""Of both operators, in ai.onnx and com.microsoft."""


def dequantized(b: Builder, x: Value, scale: Value, zero_point: Value | None, axis: int | None = None) -> Value:
    """The numbers that integers stand for.

    Args:
        axis: along which scales and zero points differ, where they are several; the default of the operator if None.

    Raises:
        ModelError: scale and zero point don't fit the integers.
    """
    scale, zero_point = alike(b, scale, zero_point)
    return b.emit("DequantizeLinear", [x, scale, zero_point], _axis(b, scale, axis))


def quantized(
    b: Builder, x: Value, scale: Value, zero_point: Value | None, dtype: DType, axis: int | None = None
) -> Value:
    """The integers of a type that stand for numbers; without a zero point it is 0.

    Raises:
        ModelError: scale and zero point don't fit the numbers.
    """
    if zero_point is None:
        zero_point = b.constant(0, "zero_point", dtype.numpy)
    scale, zero_point = alike(b, scale, zero_point)
    return b.emit("QuantizeLinear", [x, scale, zero_point], _axis(b, scale, axis))


def alike(b: Builder, scale: Value, zero_point: Value | None) -> tuple[Value, Value | None]:
    """Scale and zero point in one shape, which ai.onnx asks for and ONNX Runtime does not.

    One of them may be one number where the other has many; of one number both ``[]`` and ``[1]`` are in use.
    """
    if zero_point is None:
        return scale, None
    if is_single(b, scale) and is_single(b, zero_point):
        return b.reshaped(scale, ()), b.reshaped(zero_point, ())
    if is_single(b, scale):
        return _spread(b, scale, zero_point), zero_point
    if is_single(b, zero_point):
        return scale, _spread(b, zero_point, scale)
    return scale, zero_point


def is_single(b: Builder, value: Value) -> bool:
    """Whether a value has one element, of any rank."""
    return all(d == 1 for d in b.shape(value))


def _spread(b: Builder, value: Value, like: Value) -> Value:
    """One number, repeated to the shape of another value."""
    shape = b.shape(like)
    if value.data is not None and all(isinstance(d, int) for d in shape):
        full = np.full([int(d) for d in shape], value.data.reshape(()), value.data.dtype)  # type: ignore[arg-type]
        return b.editor.constant(full, f"{value.name}_spread")
    return b.emit("Expand", [b.reshaped(value, ()), b.emit("Shape", [like])])


def _axis(b: Builder, scale: Value, axis: int | None) -> dict[str, int]:
    several = not is_single(b, scale)
    return {"axis": axis} if several and axis is not None and axis != _DEFAULT_AXIS else {}

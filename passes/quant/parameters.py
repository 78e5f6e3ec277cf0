"""From a range of numbers to the scale and zero point that store it in integers, and from numbers to these integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array

SMALLEST_SCALE = 2.0**-60
"""The product of two scales has to stay a normal float32: processors may flush smaller numbers to zero, and divide by it."""
_TYPES = {"u8": DType.u8, "s8": DType.i8, "u16": DType.u16, "s16": DType.i16}


@dataclass(frozen=True)
class IntegerForm:
    """How numbers are stored.

    Attributes:
        dtype: the integer type.
        symmetric: zero is stored as the middle of the type, so that products need no correction for it; the most negative integer
            is left out, so that the range is as long on both sides.
    """

    dtype: DType
    symmetric: bool

    @property
    def low(self) -> int:
        """The least integer in use."""
        least = -(1 << (self.dtype.bits - 1)) if self.dtype.is_signed else 0
        return least + 1 if self.symmetric else least

    @property
    def high(self) -> int:
        """The greatest integer in use."""
        return (1 << (self.dtype.bits - self.dtype.is_signed)) - 1

    @property
    def middle(self) -> int:
        """What stands for zero in a symmetric form."""
        return (self.low + self.high) // 2

    def __str__(self) -> str:
        name = next(name for name, dtype in _TYPES.items() if dtype is self.dtype)
        return f"{name} {'symmetric' if self.symmetric else 'asymmetric'}"


def form_of(name: str, symmetric: bool | None = None) -> IntegerForm:
    """The form of a name: ``u8``, ``s8``, ``u16`` or ``s16``.

    Args:
        symmetric: by default signed forms are, and unsigned ones are not.

    Raises:
        UserError: there is no such form.
    """
    if name not in _TYPES:
        raise UserError(
            f"there is no integer form {name!r}", code="bad-option",
            hint=did_you_mean(name, _TYPES) or f"there are {', '.join(_TYPES)}",
        )  # fmt: skip
    return IntegerForm(_TYPES[name], name.startswith("s") if symmetric is None else symmetric)


@dataclass(frozen=True, eq=False)
class Parameters:
    """How one tensor is stored: x is ``scale * (q - zero_point)``.

    Attributes:
        scale: float32, one number or a vector with one for each channel.
        zero_point: of the integer type and the shape of ``scale``.
    """

    scale: Array
    zero_point: Array

    @property
    def dtype(self) -> DType:
        """The integer type."""
        return DType.from_numpy(self.zero_point.dtype)


def parameters_of(low: Array | float, high: Array | float, form: IntegerForm) -> Parameters:
    """Scale and zero point for a range, or for a range a channel.

    The range is extended to hold zero, which padding and Relu need exactly. One that holds nothing else gets scale 1. No scale
    is below ``SMALLEST_SCALE``.

    Raises:
        ValueError: a bound isn't finite, or they are the wrong way round.
    """
    least = np.minimum(np.asarray(low, np.float64), 0.0)
    greatest = np.maximum(np.asarray(high, np.float64), 0.0)
    if not (np.isfinite(least).all() and np.isfinite(greatest).all()) or (np.asarray(low) > np.asarray(high)).any():
        raise ValueError(f"no range: {low} to {high}")
    if form.symmetric:
        size = np.maximum(-least, greatest)
        scale = size / (form.high - form.middle)
    else:
        size = greatest - least
        scale = size / (form.high - form.low)
    scale = np.where(size == 0, 1.0, np.maximum(scale, SMALLEST_SCALE)).astype(np.float32)
    if form.symmetric:
        zero = np.full(scale.shape, form.middle)
    else:
        zero = np.clip(np.rint(form.low - least / scale.astype(np.float64)), form.low, form.high)
    return Parameters(scale, zero.astype(form.dtype.numpy))


def quantized(array: Array, parameters: Parameters, axis: int | None = None) -> Array:
    """What QuantizeLinear makes of an array: divided in float32, rounded half to even, saturated.

    Args:
        axis: that scales and zero points are for; None where there is one of each.
    """
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    scale, zero = parameters.scale.reshape(shape), parameters.zero_point.reshape(shape)
    limits = np.iinfo(zero.dtype)
    with np.errstate(over="ignore"):  # an infinite quotient saturates as well
        steps = np.rint(array.astype(np.float32) / scale).astype(np.float64) + zero
    found: Array = np.clip(steps, limits.min, limits.max).astype(zero.dtype)
    return found

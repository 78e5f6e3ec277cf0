"""The two 16-bit formats, and what happens to constants in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array

_BLOCK = 1 << 16
MOSTLY = 0.5
"""A tensor vanishes where more than this part of its nonzero elements does."""


@dataclass(frozen=True)
class NarrowFormat:
    """A 16-bit float format.

    Attributes:
        precision: as users write it, ``fp16`` or ``bf16``.
        dtype: the element type.
        largest: the largest finite number.
        smallest: the smallest number of full precision: 6.1e-5 of float16.
        opset: the first version of ai.onnx whose operators take the type, as a rule.
    """

    precision: str
    dtype: DType
    largest: float
    smallest: float
    opset: int

    def narrow(self, array: Array) -> Array:
        """The array in this format, rounded to nearest; what is beyond its range becomes infinite."""
        with np.errstate(over="ignore"):
            return array.astype(self.dtype.numpy)

    def overflows(self, array: Array) -> float | None:
        """The element that is farthest beyond the range (infinities are), None if there is none."""
        if not array.size:
            return None
        ends = [float(np.fmin.reduce(array, axis=None)), float(np.fmax.reduce(array, axis=None))]
        worst = max(ends, key=abs)
        return worst if np.isinf(self.narrow(np.float32(worst))) else None

    def beyond(self, array: Array) -> tuple[bool, bool]:
        """Whether elements are beyond the range below and above."""
        if not array.size:
            return False, False
        low, high = np.fmin.reduce(array, axis=None), np.fmax.reduce(array, axis=None)
        return bool(np.isneginf(self.narrow(np.float32(low)))), bool(np.isposinf(self.narrow(np.float32(high))))

    def vanishes(self, array: Array) -> bool:
        """Whether most of the nonzero elements are too small for full precision."""
        nonzero = small = 0
        for part in _blocks(array):
            size = np.abs(part)
            nonzero += int(np.count_nonzero(size))
            small += int(np.count_nonzero((size > 0) & (size < self.smallest)))
        return small > MOSTLY * nonzero

    def exact(self, array: Array) -> bool:
        """Whether every element is a number of this format."""
        return all(
            np.array_equal(self.narrow(part).astype(array.dtype), part, equal_nan=True) for part in _blocks(array)
        )

    def loses_whole_numbers(self, array: Array) -> bool:
        """Whether what is in range are whole numbers, and some are rounded: positions, sizes, indices."""
        rounded = False
        for part in _blocks(array):
            inside = part[np.abs(part) <= self.largest]
            if not np.array_equal(inside, np.rint(inside)):
                return False
            rounded = rounded or not self.exact(inside)
        return rounded

    def __str__(self) -> str:
        return str(self.dtype.numpy)


def _blocks(array: Array) -> Iterator[Array]:
    """The elements in portions that fit into caches: weights may take half a gigabyte."""
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]


FP16 = NarrowFormat("fp16", DType.f16, 65504.0, 2.0**-14, 13)
BF16 = NarrowFormat("bf16", DType.bf16, float(ml_dtypes.finfo(ml_dtypes.bfloat16).max), 2.0**-126, 22)

FORMATS = {f.precision: f for f in (FP16, BF16)}


_ALSO_CALLED = {"float16": "fp16", "half": "fp16", "f16": "fp16", "bfloat16": "bf16"}


def format_of(precision: str) -> NarrowFormat:
    """The format that a user names.

    Raises:
        UserError: there is no such precision; with a suggestion.
    """
    if precision not in FORMATS:
        word = str(precision)
        near = _ALSO_CALLED.get(word.lower())
        hint = f"did you mean {near!r}?" if near else did_you_mean(word, FORMATS)
        if word.lower() in ("fp32", "float32"):
            hint = "models stay in float32 when no precision is given"
        if word.lower() in ("int8", "i8", "s8", "u8"):
            hint = (
                f"one of {', '.join(FORMATS)} here; `graphopt quantize` writes models in 8 bits, and "
                "`graphopt compile --precision int8 --calib` compiles them"
            )
        raise UserError(
            f"there is no precision {precision!r}", code="unknown-precision",
            hint=hint or f"one of {', '.join(FORMATS)}; without one, models stay as they are",
        )  # fmt: skip
    return FORMATS[precision]

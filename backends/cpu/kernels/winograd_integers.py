"""Winograd's minimal filtering of 3 x 3 kernels in integers: exact, with operands of 16 bits and sums of 32 that may wrap around.

The transform of a kernel has fractions. Each of its rows is multiplied with its common denominator instead, and what comes back
is brought to one scale: 24 x 24 times the result for F(4 x 4, 3 x 3), 2 x 2 times for F(2 x 2, 3 x 3). All of that is computed
modulo 2^32, where overflows on the way do no harm, the odd factor 9 of 576 has an inverse, and a factor of 2^k costs the k
highest bits of the result: 6 of 32 for 576, so that it is right if it fits in 26 bits. Transformed operands fit in 16 bits: the
absolute sum of a row is at most 10 for patches and 7 for kernels, and those of bytes are 10 x 10 x 255 and 7 x 7 x 255 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels.winograd_transforms import Filtering, transformed_weight
from graphopt.backends.cpu.kernels.wrapping import Wrapping, wrapping_imported
from graphopt.ir.graph import Array

WEIGHT_TRANSFORM: dict[int, Array] = {
    2: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]]),
    4: np.array([[1, 0, 0], [-1, -1, -1], [-1, 1, -1], [1, 2, 4], [1, -2, 4], [0, 0, 1]]),
}
"""G in whole numbers, by m: the rows of `winograd_transforms` times 1, 2, 2, 1 or 4, 6, 6, 24, 24, 1."""

SUM_BITS = {2: 30, 4: 26}
"""Bits, that of the sign included, in which a result has to fit, by m."""

_SHIFT = {2: 2, 4: 6}
"""The power of two that results come multiplied with, by m."""
_INVERSE = {2: 1, 4: pow(9, -1, 1 << 32)}
"""The inverse modulo 2^32 of the odd factor that they come multiplied with, by m."""
_CHUNK = 32768
"""Filters transformed at a time."""


@dataclass(frozen=True)
class IntegerFiltering(Filtering):
    """The maps in integers.

    Attributes:
        lanes: of the vectors on the way back.
    """

    lanes: int = 1

    @property
    def constant(self) -> int | None:
        """As in `Filtering`: results are multiplied."""
        return None

    def imported(self) -> AbstractContextManager[None]:
        """Emits what is written inside with additions and products at hand that wrap around."""
        return wrapping_imported(self.lanes)

    def output_row(self, p: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """``A^T p`` for one row or column of products, times 2 or 24."""
        return [wrapping.value for wrapping in self._output_row([Wrapping(value, self.lanes) for value in p])]

    def _output_row(self, p: Sequence[Wrapping]) -> list[Wrapping]:
        if self.m == 2:
            return [2 * p[0] + (p[1] + p[2]), (p[1] - p[2]) - 2 * p[3]]
        sum_one, difference_one = p[1] + p[2], p[1] - p[2]
        sum_two, difference_two = p[3] + p[4], p[3] - p[4]
        return [
            6 * p[0] + (4 * sum_one + sum_two),
            4 * difference_one + 2 * difference_two,
            4 * (sum_one + sum_two),
            (4 * difference_one + 8 * difference_two) + 24 * p[5],
        ]

    def result(self, value: tirx.Expr) -> tirx.Expr:
        """What `output_row` makes of rows and columns, as the sum that it stands for."""
        if _INVERSE[self.m] != 1:
            value = (_INVERSE[self.m] * Wrapping(value, self.lanes)).value
        return tirx.shift_right(value, tirx.Broadcast(tirx.const(_SHIFT[self.m], "int32"), self.lanes))

    def weight(self, weight: Array) -> Array:
        """``G w G^T`` of OIHW integers with 3 x 3 kernels, in whole numbers: int16 of shape ((m + 2)^2, I, O).

        NumPy's BLAS knows floating point only; whole numbers far below 2^24 are exact in it.
        """
        transform = WEIGHT_TRANSFORM[self.m]
        return transformed_weight(weight, transform, np.dtype(np.float32), np.dtype(np.int16), _CHUNK)

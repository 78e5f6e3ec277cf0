"""The linear maps of Winograd's minimal filtering F(m x m, r x r): into the transformed domain and out of it.

Matrices after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): interpolation points 0, 1, -1
and infinity for patches of 4 x 4, with 2 and -2 for those of 6 x 6. Points that are one another's negatives share their even and
odd parts. A patch is transformed by its size alone: 6 x 6 are 4 x 4 outputs of 3 x 3 taps, 3 x 3 of 4 x 4, or 2 x 2 of 5 x 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.templates.packed_array import for_each
from graphopt.ir.graph import Array

WEIGHT_TRANSFORM: dict[int, Array] = {
    2: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}
"""G of shape (m + 2, 3) for 3 taps, by m."""


Piece: TypeAlias = Callable[[Sequence[tirx.Expr]], dict[int, tirx.Expr]]
"""Some rows of a transform, by their number, from one row or column of what is transformed."""

_CHUNK = 4096
"""Filters transformed at a time."""


@dataclass(frozen=True)
class Filtering:
    """The maps in floating point.

    Attributes:
        m: outputs per row: 2 or 4 of 3 taps, 3 of 4 taps, 2 of 5.
        taps: elements of the kernel per row.
    """

    m: int
    taps: int = 3

    @property
    def side(self) -> int:
        """Rows and columns of a patch, 4 or 6."""
        return self.m + self.taps - 1

    @property
    def constant(self) -> int | None:
        """The row of products that `output_row` adds to every result as it is, if there is one."""
        return 1

    def imported(self) -> AbstractContextManager[None]:
        """Emits what is written inside with the functions at hand that the way back calls."""
        return nullcontext()

    def input_row(self, d: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """``B^T d`` for one row or column of a patch: numbers, also integers."""
        if self.side == 4:
            return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
        even_one, odd_one = d[4] - 4 * d[2], d[3] - 4 * d[1]
        even_two, odd_two = d[4] - d[2], 2 * (d[3] - d[1])
        return [
            4 * d[0] - 5 * d[2] + d[4],
            even_one + odd_one,
            even_one - odd_one,
            even_two + odd_two,
            even_two - odd_two,
            4 * d[1] - 5 * d[3] + d[5],
        ]

    def input_pieces(self) -> tuple[Piece, ...]:
        """`input_row` in pieces of few results that share their parts, so that a patch needs few registers at a time.

        In the order given, no multiply-add overwrites what is needed later, as it would its addend on ARM.
        """
        if self.side == 4:
            return (lambda d: dict(enumerate(self.input_row(d))),)

        def far(d: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            even, odd, last = d[4] - d[2], d[3] - d[1], d[5] - d[3]
            twice = odd + odd
            return {3: even + twice, 4: even - twice, 5: last - 4 * odd}

        def near(d: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            even, odd = d[4] - 4 * d[2], d[3] - 4 * d[1]
            return {1: even + odd, 2: even - odd, 0: (even - d[2]) + 4 * d[0]}

        return far, near

    def output_pieces(self) -> tuple[Piece, ...]:
        """`output_row` as `input_pieces`."""
        if self.side == 4:
            return (lambda p: dict(enumerate(self.output_row(p))),)

        def even(p: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            sum_one, sum_two = p[1] + p[2], p[3] + p[4]
            first = {0: (p[0] + sum_one) + sum_two}
            if self.m == 2:
                return first
            return first | {2: (sum_one if self.m > 3 else sum_one + p[5]) + 4 * sum_two}

        def odd(p: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            difference_one, difference_two = p[1] - p[2], p[3] - p[4]
            third = {3: (difference_one + p[5]) + 8 * difference_two} if self.m > 3 else {}
            return third | {1: (difference_one if self.m > 2 else difference_one + p[5]) + 2 * difference_two}

        return even, odd

    def output_row(self, p: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """``A^T p`` for one row or column of products."""
        if self.side == 4:
            return [p[0] + p[1] + p[2], p[1] - p[2] - p[3]]
        sum_one, difference_one = p[1] + p[2], p[1] - p[2]
        sum_two, difference_two = p[3] + p[4], p[3] - p[4]
        results = [
            p[0] + sum_one + sum_two,
            difference_one + 2 * difference_two,
            sum_one + 4 * sum_two,
            difference_one + 8 * difference_two,
        ][: self.m]
        return [*results[:-1], results[-1] + p[5]]

    def result(self, value: tirx.Expr) -> tirx.Expr:
        """What `output_row` makes of rows and columns, as the sum that it stands for."""
        return value

    def weight(self, weight: Array) -> Array:
        """``G w G^T`` of OIHW weights: shape (side^2, I, O), computed in float64."""
        transform = WEIGHT_TRANSFORM[self.m] if self.taps == 3 else _weight_transform(1.0, 2.0, self.taps)
        return transformed_weight(weight, transform, np.dtype(np.float64), np.dtype(np.float32), _CHUNK)


@dataclass(frozen=True)
class HalfFiltering(Filtering):
    """The maps in float16: for m = 4 with the interpolation points 0, +-1/sqrt(2), +-sqrt(2) and infinity.

    Errors come out a third smaller than with +-1 and +-2, by 6 dB, and numbers in between four times smaller: a transformed patch
    grows by 26 at most. So that it doesn't leave float16's range, each pass divides it by 4, of m = 2 by 2, as much as most rows
    grow; what comes out at the end is multiplied by the square of that. With powers of two this rounds nothing.
    """

    @property
    def constant(self) -> int | None:
        """None: a bias would have to be divided as patches are."""
        return None

    @property
    def _shrunk(self) -> float:
        """What each pass over a patch is multiplied by."""
        return 1 / self.m

    def input_row(self, d: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """As in `Filtering`, divided by m."""
        shrunk = self._shrunk
        if self.m == 2:
            one, two = _times(shrunk, d[1]), _times(shrunk, d[2])
            return [_times(shrunk, d[0]) - two, one + two, two - one, one - _times(shrunk, d[3])]
        near, far = _POINTS
        three, four = _times(shrunk, d[3]), _times(shrunk, d[4])
        even_near, odd_near = four - _times(shrunk * far**2, d[2]), three - _times(shrunk * far**2, d[1])
        even_far, odd_far = four - _times(shrunk * near**2, d[2]), three - _times(shrunk * near**2, d[1])
        both = shrunk * (near**2 + far**2)
        return [
            (_times(shrunk, d[0]) + four) - _times(both, d[2]),
            even_near + _times(near, odd_near),
            even_near - _times(near, odd_near),
            even_far + _times(far, odd_far),
            even_far - _times(far, odd_far),
            (_times(shrunk, d[1]) + _times(shrunk, d[5])) - _times(both, d[3]),
        ]

    def output_row(self, p: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """As in `Filtering`."""
        if self.m == 2:
            return super().output_row(p)
        near, far = _POINTS
        sum_near, difference_near = p[1] + p[2], p[1] - p[2]
        sum_far, difference_far = p[3] + p[4], p[3] - p[4]
        return [
            p[0] + sum_near + sum_far,
            _times(near, difference_near) + _times(far, difference_far),
            _times(near**2, sum_near) + _times(far**2, sum_far),
            p[5] + _times(near**3, difference_near) + _times(far**3, difference_far),
        ]

    def input_pieces(self) -> tuple[Piece, ...]:
        """As in `Filtering`, divided by m."""
        if self.m == 2:
            return super().input_pieces()
        shrunk = self._shrunk
        near, far = _POINTS

        def of_far(d: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            even = _times(shrunk, d[4]) - _times(shrunk * near**2, d[2])
            odd = _times(far, _times(shrunk, d[3]) - _times(shrunk * near**2, d[1]))
            ends = _times(shrunk, d[1]) + _times(shrunk, d[5])
            return {3: even + odd, 4: even - odd, 5: ends - _times(shrunk * (near**2 + far**2), d[3])}

        def of_near(d: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            even = _times(shrunk, d[4]) - _times(shrunk * far**2, d[2])
            odd = _times(near, _times(shrunk, d[3]) - _times(shrunk * far**2, d[1]))
            ends = _times(shrunk, d[0]) + _times(shrunk, d[4])
            return {1: even + odd, 2: even - odd, 0: ends - _times(shrunk * (near**2 + far**2), d[2])}

        return of_far, of_near

    def output_pieces(self) -> tuple[Piece, ...]:
        """As in `Filtering`."""
        if self.m == 2:
            return super().output_pieces()
        near, far = _POINTS

        def even(p: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            sum_near, sum_far = p[1] + p[2], p[3] + p[4]
            return {0: (p[0] + sum_near) + sum_far, 2: _times(near**2, sum_near) + _times(far**2, sum_far)}

        def odd(p: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            difference_near, difference_far = p[1] - p[2], p[3] - p[4]
            return {
                3: (p[5] + _times(near**3, difference_near)) + _times(far**3, difference_far),
                1: _times(near, difference_near) + _times(far, difference_far),
            }

        return even, odd

    def result(self, value: tirx.Expr) -> tirx.Expr:
        """As in `Filtering`: a patch was divided twice."""
        return _times(self._shrunk**-2, value)

    def weight(self, weight: Array) -> Array:
        """As in `Filtering`, stored in float16."""
        transform = WEIGHT_TRANSFORM[2] if self.m == 2 else _weight_transform(*_POINTS)
        return transformed_weight(weight, transform, np.dtype(np.float64), np.dtype(np.float16), _CHUNK)


_POINTS = (2**-0.5, 2**0.5)
"""The positive ones of the points; their product is 1."""


def _weight_transform(near: float, far: float, taps: int = 3) -> Array:
    """G of shape (6, taps) for the points 0, +-near, +-far and infinity."""
    points = (0.0, near, -near, far, -far)
    rows = [[p**i / math.prod(p - q for q in points if q != p) for i in range(taps)] for p in points]
    return np.array([*rows, [0.0] * (taps - 1) + [1.0]])


def _times(factor: float, x: tirx.Expr) -> tirx.Expr:
    """``factor * x`` in the type and as many lanes as ``x`` has."""
    scalar, _, lanes = str(x.ty.dtype).partition("x")
    constant = tirx.const(factor, scalar)
    return (tirx.Broadcast(constant, int(lanes)) if lanes else constant) * x


@dataclass(frozen=True)
class WholeFiltering(Filtering):
    """The maps in floating point where kernels are transformed on the way, in as few operations as possible.

    Each row of the kernel's transform is multiplied by its own denominator, but for the sign: its factors are 1, 2 and 4. The way
    back brings products to one scale, of (m + 2)^2 components some hundred times fewer than weights.
    """

    @property
    def constant(self) -> int | None:
        """As in `Filtering`: results are multiplied."""
        return None

    def weight_row(self, g: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """``G g`` for one row or column of a kernel, its rows times 1, 2, 2, 1 or 4, -6, -6, 24, 24, 1."""
        even = g[0] + g[2]
        if self.m == 2:
            return [g[0], even + g[1], even - g[1], g[2]]
        even_two, odd_two = g[0] + 4 * g[2], 2 * g[1]
        return [g[0], even + g[1], even - g[1], even_two + odd_two, even_two - odd_two, g[2]]

    def output_row(self, p: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """``A^T p`` for one row or column of products, times 2 or 24."""
        if self.m == 2:
            return [2 * p[0] + (p[1] + p[2]), (p[1] - p[2]) - 2 * p[3]]
        sum_one, difference_one = p[1] + p[2], p[1] - p[2]
        sum_two, difference_two = p[3] + p[4], p[3] - p[4]
        return [
            6 * p[0] + (sum_two - 4 * sum_one),
            2 * difference_two - 4 * difference_one,
            4 * (sum_two - sum_one),
            (8 * difference_two - 4 * difference_one) + 24 * p[5],
        ]

    def output_pieces(self) -> tuple[Piece, ...]:
        """As in `Filtering`, times 2 or 24."""
        if self.m == 2:
            return super().output_pieces()

        def even(p: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            sum_one, sum_two = p[1] + p[2], p[3] + p[4]
            return {2: 4 * (sum_two - sum_one), 0: (sum_two - 4 * sum_one) + 6 * p[0]}

        def odd(p: Sequence[tirx.Expr]) -> dict[int, tirx.Expr]:
            four, difference_two = 4 * (p[1] - p[2]), p[3] - p[4]
            return {1: 2 * difference_two - four, 3: (8 * difference_two - four) + 24 * p[5]}

        return even, odd

    def result(self, value: tirx.Expr) -> tirx.Expr:
        """What `output_row` makes of rows and columns, as the sum that it stands for."""
        return value * (1 / (4 if self.m == 2 else 576))


def transformed_weight(weight: Array, transform: Array, computed: np.dtype, stored: np.dtype, filters: int) -> Array:
    """``G w G^T`` of OIHW weights: shape (side^2, I, O).

    Args:
        weight: the weights.
        transform: G.
        computed: type that it is computed in.
        stored: type of the result.
        filters: how many are transformed at a time, whose copies should stay in cache.
    """
    outputs, inputs = weight.shape[:2]
    both = np.kron(transform, transform).astype(computed)
    transformed = np.empty((len(both), inputs, outputs), stored)
    chunk = max(filters // max(outputs, 1), 1)

    def work(i: int) -> None:
        """One chunk of input channels."""
        part = weight[:, i * chunk : (i + 1) * chunk].transpose(2, 3, 1, 0).reshape(both.shape[1], -1).astype(computed)
        transformed[:, i * chunk : (i + 1) * chunk] = (both @ part).reshape(len(both), -1, outputs)

    for_each(work, -(-inputs // chunk), transformed.nbytes)
    return transformed

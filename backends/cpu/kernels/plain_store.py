"""Storing a register tile where points are neighbours: the tile's vectors of channels turn into vectors of points."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import ON_STACK, RegisterTile, guarded
from graphopt.backends.cpu.kernels.side_by_side import vectors_side_by_side
from graphopt.backends.cpu.kernels.transpose_tile import QUAD, transposed_quad, transposing_width, vector_widths
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import StoreStyle

_MASKED_LANES = 16
"""Vectors of this many lanes come with masks (AVX-512): what is shorter is stored in one piece all the same."""

_FLOATS = frozenset({"float16", "float32"})

Finish = Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr]
"""``(accumulator, point of the tile, channel) -> value to store``, where point or channel may be a vectorised loop's."""


@dataclass(frozen=True)
class PlainStore:
    """Stores one tile; the accumulators pass through L1, from where they are read as the quarters of vectors of points.

    Attributes:
        output: the whole output as one dimension.
        place: position in it of ``(point, channel)``.
        channels: valid channels.
        run: neighbouring points, a divisor of the tile's points.
        finish: the epilogue.
        pointwise: whether the epilogue depends on the point; if not it is evaluated on vectors of channels, before they turn.
        style: how the loops around the epilogue are written.
    """

    output: View
    place: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]
    channels: int
    run: int
    finish: Finish
    pointwise: bool
    style: StoreStyle

    def emit(self, tile: RegisterTile, first_channel: tirx.Expr) -> None:
        """Emits the stores of a tile whose first lane is ``first_channel``."""
        width = transposing_width(self.run, tile.lanes)
        runs = [
            (row + first, min(width, self.run - first))
            for row in range(0, tile.points, self.run)
            for first in range(0, self.run, width)
        ]
        panel = tile.vectors * tile.lanes
        # a panel's channels beyond the last one have no operands
        early = not self.pointwise and self.style is not StoreStyle.scalar and self.channels % panel == 0
        computed = self.output.type.compute
        early = early and (computed == tile.dtype or {computed, tile.dtype} <= _FLOATS)
        turning = computed if early else tile.dtype  # what is finished turns as what it will be, or the sums do
        staged = self._staged(tile, turning, max(first + width for first, _ in runs), first_channel, early)
        quads: tirx.Expr | int = panel // QUAD
        if self.channels % panel:
            quads = tirx.floordiv(tirx.min(panel, self.channels - first_channel) + (QUAD - 1), QUAD)
        everything = tirx.Ramp(T.int64(0), T.int64(1), width)
        each = T.unroll if early or self.style is StoreStyle.unrolled else T.serial
        with T.serial(0, quads) as quad:
            four = tirx.Ramp(tirx.Cast("int64", quad) * QUAD, T.int64(1), QUAD)
            base = first_channel + quad * QUAD
            for first, count in runs:
                turned = T.alloc_buffer((QUAD, width), turning, scope="local", annotations=ON_STACK)
                quad_of = functools.partial(_quad, staged, four, first)
                for i, vector in enumerate(transposed_quad(quad_of, width, turning)):
                    T.buffer_store(turned, vector, [i, everything])
                if self.style is StoreStyle.rolled and not early and self.channels % QUAD == 0:
                    for start, part in vector_widths(count, width):
                        vectors_side_by_side(QUAD, part, self._finished(turned, start, first, base))
                    continue
                with each(0, QUAD) as i, guarded(base + i < self.channels if self.channels % QUAD else None):
                    if early and width == _MASKED_LANES and count < width:
                        self._store_masked(turned[i, everything], count, self.place(first, base + i))
                        continue
                    for start, part in vector_widths(count, width):
                        self._store(turned, i, start, part, first, base + i, early)

    def _staged(self, tile: RegisterTile, dtype: str, rows: int, first_channel: tirx.Expr, early: bool) -> tirx.Buffer:
        if not early:
            return tile.staged(rows)
        if self.style is StoreStyle.unrolled:
            return tile.staged(rows, lambda value, p, column: self._computed(value, p, first_channel + column), dtype)
        sums = staged = tile.staged(rows)
        if dtype != tile.dtype:
            staged = T.alloc_buffer(tuple(sums.shape), dtype, scope="local", annotations=ON_STACK)
        with T.serial(0, tile.vectors) as v:

            def finish(p: tirx.Expr, lane: tirx.Expr) -> None:
                column = v * tile.lanes + lane
                T.buffer_store(staged, self._computed(sums[p, column], p, first_channel + column), [p, column])

            vectors_side_by_side(tile.points, tile.lanes, finish)
        return staged

    def _computed(self, value: tirx.Expr, p: tirx.Expr, channel: tirx.Expr) -> tirx.Expr:
        """A finished element in the form that is computed with: a cast in the epilogue gives it as it is stored."""
        return self.output.type.computed(self.finish(value, p, channel))

    def _store(
        self, turned: tirx.Buffer, i: tirx.Expr, start: int, part: int, first: int, channel: tirx.Expr, early: bool
    ) -> None:
        """Emits the stores of ``part`` lanes of a turned vector, from lane ``start``."""
        lanes = T.serial if self.style is StoreStyle.scalar else T.vectorized
        at = self.place(first + start, channel)
        with lanes(0, part) as lane:
            value = turned[i, start + lane]
            finished = value if early else self.finish(value, first + start + lane, channel)
            self.output.store(finished, [at + lane])

    def _finished(
        self, turned: tirx.Buffer, start: int, first: int, base: tirx.Expr
    ) -> Callable[[tirx.Expr, tirx.Expr], None]:
        """What stores a lane, from ``start`` on, of a turned vector that isn't finished yet."""

        def store(i: tirx.Expr, lane: tirx.Expr) -> None:
            channel = base + i
            value = self.finish(turned[i, start + lane], first + start + lane, channel)
            self.output.store(value, [self.place(first + start, channel) + lane])

        return store

    def _store_masked(self, vector: tirx.Expr, count: int, place: tirx.Expr) -> None:
        """Emits the store of the first ``count`` lanes."""
        vector = self.output.type.stored(vector)
        mask = tirx.Ramp(T.int32(0), T.int32(1), _MASKED_LANES) < tirx.Broadcast(T.int32(count), _MASKED_LANES)
        target = self.output.address([place])
        T.evaluate(T.call_llvm_intrin("void", "llvm.masked.store", vector, target, mask))


def _quad(staged: tirx.Buffer, four: tirx.Expr, first: int, point: int) -> tirx.Expr:
    """Four channels of a point."""
    return staged[first + point, four]

"""Accumulators addressed as whole vectors: for kernels whose operands are vectors on both sides, or permuted ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.side_by_side import side_by_side, vectors_side_by_side, ways
from graphopt.backends.cpu.kernels.tiling import split_balanced
from graphopt.backends.templates.storing import StoreStyle

ON_STACK = {"disable_lower_builtin": True}
"""As in ``register_tile``: a local buffer that must not become a heap workspace."""


def ramp(first: tirx.Expr | int, lanes: int) -> tirx.Expr:
    """The positions of ``lanes`` adjacent elements."""
    if lanes == 1:
        return _const(first)
    first = _const(first)
    return tirx.Ramp(first, tirx.const(1, str(first.ty.dtype)), lanes)


def _const(value: tirx.Expr | int) -> tirx.Expr:
    return tirx.const(value, "int32") if isinstance(value, int) else value


def broadcast(value: tirx.Expr, lanes: int) -> tirx.Expr:
    """A scalar in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


class VectorTile:
    """``rows`` x ``vectors`` accumulators of ``lanes`` elements, indexed by constants only so that they stay in registers."""

    def __init__(self, rows: int, vectors: int, lanes: int, dtype: str) -> None:
        self.rows = rows
        self.vectors = vectors
        self.lanes = lanes
        self.dtype = dtype
        self._open: set[tuple[int, int]] = set()
        self._registers = T.alloc_buffer((rows, vectors, lanes), dtype, scope="local", annotations=ON_STACK)

    def fill(self, start: float | tirx.Expr) -> None:
        """Emits the start of every accumulator: a number in all lanes, or a vector."""
        self.leave_open()
        self.fill_open(start)

    def leave_open(self) -> None:
        """Have every accumulator hold nothing until it is set."""
        self._open = {(row, vector) for row in range(self.rows) for vector in range(self.vectors)}

    def fill_open(self, start: float | tirx.Expr) -> None:
        """Emits the start of the accumulators that still hold nothing."""
        if isinstance(start, (int, float)):
            start = broadcast(tirx.const(start, self.dtype), self.lanes)
        for row, vector in sorted(self._open):
            self.set(row, vector, start)

    def held(self, row: int, vector: int) -> tirx.Expr | None:
        """An accumulator, None if it holds nothing. To be asked for in the order in which the code runs."""
        return None if (row, vector) in self._open else self.get(row, vector)

    def get(self, row: int, vector: int) -> tirx.Expr:
        """An accumulator."""
        return tirx.BufferLoad(self._registers, self._at(row, vector))

    def set(self, row: int, vector: int, value: tirx.Expr) -> None:
        """Emits the replacement of an accumulator."""
        self._open.discard((row, vector))
        T.buffer_store(self._registers, value, self._at(row, vector))

    def _at(self, row: int, vector: int) -> list[Any]:
        return [_const(row), _const(vector), ramp(0, self.lanes)]

    def store(
        self,
        columns: Sequence[tirx.Expr | int],
        store: Callable[[tirx.Expr, tirx.Expr | int, tirx.Expr], None],
        style: StoreStyle = StoreStyle.unrolled,
    ) -> None:
        """Emits ``store(accumulator, row, column)`` lane by lane.

        Args:
            columns: the column of the first lane of each vector.
            store: emits one store, vectorised unless the style is scalar.
            style: how the loops around the stores are written.
        """
        if style is StoreStyle.unrolled:
            for row in range(self.rows):
                for vector, column in enumerate(columns):
                    with T.vectorized(0, self.lanes) as lane:
                        store(self._registers[row, vector, lane], row, column + lane)
            return
        staged = self._staged()
        for vector, column in enumerate(columns):
            if style is StoreStyle.scalar:
                with T.serial(0, self.rows) as turn, T.serial(0, self.lanes) as lane:
                    store(staged[vector, turn, lane], turn, column + lane)
            elif self.rows > 1:

                def each(turn: tirx.Expr, lane: tirx.Expr, vector: int = vector, column: Any = column) -> None:
                    store(staged[vector, turn, lane], turn, column + lane)

                vectors_side_by_side(self.rows, self.lanes, each)
        if style is StoreStyle.rolled and self.rows == 1:
            row = tirx.const(0, "int32")
            for first in range(0, self.vectors, ways()):
                side_by_side(
                    range(first, min(first + ways(), self.vectors)),
                    self.lanes,
                    lambda vector, lane: store(staged[vector, 0, lane], row, columns[vector] + lane),
                )

    def store_elements(
        self, first: tirx.Expr, columns: int, store: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], None]
    ) -> None:
        """Emits ``store(accumulator, row, column)`` for one vector a row, element by element, rows innermost.

        Args:
            first: column of the first lane.
            columns: columns that there are; lanes beyond are left out.
            store: emits one store.
        """
        staged = self._staged()
        count = self.lanes if columns % self.lanes == 0 else tirx.min(self.lanes, columns - first)
        with T.serial(0, count) as lane, T.serial(0, self.rows) as turn:
            store(staged[0, turn, lane], turn, first + lane)

    def store_first(
        self,
        column: tirx.Expr | int,
        count: tirx.Expr,
        store: Callable[[tirx.Expr, tirx.Expr | int, tirx.Expr], None],
    ) -> None:
        """Emits ``store(accumulator, row, column)`` for the first ``count`` lanes of one vector a row, element by element."""
        staged = self._staged()
        with T.serial(0, self.rows) as turn, T.serial(0, count) as lane:
            store(staged[0, turn, lane], turn, column + lane)

    def _staged(self) -> tirx.Buffer:
        """A copy of the accumulators that may be indexed with run-time values: memory, not the registers themselves."""
        staged = T.alloc_buffer((self.vectors, self.rows, self.lanes), self.dtype, scope="local", annotations=ON_STACK)
        for row in range(self.rows):
            for vector in range(self.vectors):
                T.buffer_store(staged, self.get(row, vector), [vector, row, ramp(0, self.lanes)])
        return staged


@dataclass(frozen=True)
class ColumnTiles:
    """``count`` adjacent tiles of ``width`` columns from ``start``, each of vectors at ``offsets`` from its first column."""

    start: int
    count: int
    width: int
    offsets: tuple[int, ...]


def column_tiles(columns: int, lanes: int, vectors: int) -> list[ColumnTiles]:
    """Cuts ``columns`` (at least ``lanes``) into tiles of at most ``vectors`` vectors.

    Vectors of the last tile are moved back where they would pass the end: they compute some columns again.
    """
    tiles: list[ColumnTiles] = []
    for part in split_balanced(-(-columns // lanes), vectors):
        width = part.tile * lanes
        start, count = int(part.start) * lanes, int(part.count)
        aligned = tuple(range(0, width, lanes))
        whole = count if start + count * width <= columns else count - 1
        if whole:
            tiles.append(ColumnTiles(start, whole, width, aligned))
        if whole < count:
            last = start + whole * width
            tiles.append(ColumnTiles(last, 1, width, tuple(min(o, columns - lanes - last) for o in aligned)))
    return tiles


def branch_on_tile(
    index: tirx.Expr | int,
    tiles: Sequence[ColumnTiles],
    body: Callable[[tirx.Expr | int, tuple[int, ...]], None],
) -> None:
    """Emits ``body(first column, offsets)`` for tile number ``index``: tiles of each form are code of their own."""
    head, *rest = tiles
    if not rest:
        body(head.start + index * head.width if head.count > 1 else head.start, head.offsets)
        return
    with T.If(index < head.count):
        with T.Then():
            body(head.start + index * head.width, head.offsets)
        with T.Else():
            branch_on_tile(index - head.count, rest, body)


def largest_power(number: int) -> int:
    """The largest power of two that is not above ``number``."""
    return 1 << (number.bit_length() - 1)

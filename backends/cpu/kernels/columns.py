"""Loops over the columns of row-major matrices, a lane a column: for what is reduced along another axis than the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.prefetch import LINE_BYTES, prefetch
from graphopt.backends.cpu.kernels.register_tile import ON_STACK
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.tensor import Expr

_AHEAD = 8


@dataclass(frozen=True)
class Columns:
    """Neighbouring columns of one matrix.

    Attributes:
        matrix: which one.
        first: the first column.
        vectors, lanes: how many vectors of how many columns.
        dtype: of totals.
    """

    matrix: Expr
    first: Expr
    vectors: int
    lanes: int
    dtype: str

    def accumulators(self, start: float) -> tirx.Buffer:
        """Emits registers, one a column, that begin with ``start``."""
        cells = T.alloc_buffer((self.vectors, self.lanes), self.dtype, scope="local", annotations=ON_STACK)
        self.each(lambda v, lane, _: T.buffer_store(cells, tirx.const(start, self.dtype), [v, lane]))
        return cells

    def fetch(self, x: View, row: Expr) -> None:
        """Emits prefetches of these columns of ``x[matrix, row + 8]``: the hardware follows no stride of more than a page."""
        elements = LINE_BYTES // x.type.bytes
        with T.unroll(0, max(self.vectors * self.lanes // elements, 1)) as line:
            prefetch(x, (self.matrix, row + _AHEAD, self.first + line * elements))

    def each(self, body: Callable[[Expr, Expr, Expr], None]) -> None:
        """Emits ``body(vector, lane, column)`` for every column."""
        with T.unroll(0, self.vectors) as v:
            if self.lanes == 1:
                body(v, 0, self.first + v)
                return
            with T.vectorized(0, self.lanes) as lane:
                body(v, lane, self.first + v * self.lanes + lane)


def for_columns(
    matrices: Expr, columns: int, lanes: int, vectors: int, dtype: str, parallel: bool, body: Callable[[Columns], None]
) -> None:
    """Emits ``body`` over all columns of all matrices: tiles of ``vectors`` vectors, then what is left in ever narrower ones."""
    width = lanes * vectors
    full = columns // width
    if full:
        with (T.parallel if parallel else T.serial)(0, matrices * full) as i:
            body(Columns(tirx.floordiv(i, full), tirx.floormod(i, full) * width, vectors, lanes, dtype))
    done = full * width
    if done == columns:
        return
    several = not isinstance(matrices, int) or matrices > 1
    with (T.parallel if parallel and several else T.serial)(0, matrices) as matrix:
        left = (columns - done) // lanes
        if left:
            body(Columns(matrix, done, left, lanes, dtype))
            done += left * lanes
        narrow = lanes // 2
        while done < columns:
            if columns - done >= narrow:
                body(Columns(matrix, done, 1, narrow, dtype))
                done += narrow
            narrow //= 2

"""Copying columns of a matrix that is only known at run time into a panel, as `matmul_packed` lays constants out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T


@dataclass(frozen=True)
class PanelCopy:
    """What is copied.

    Attributes:
        read: element of the matrix at ``(k, column of the panel)``.
        write: emits the store of ``(k, column of the panel, value)``.
        k: rows of the matrix.
        width: columns of a panel.
        lanes: elements per vector.
        dtype: of the panel.
        transposed: whether neighbours along K, not along columns, are neighbours in memory.
    """

    read: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]
    write: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], None]
    k: tirx.Expr | int
    width: int
    lanes: int
    dtype: str
    transposed: bool = False

    def emit(self, columns: tirx.Expr | int) -> None:
        """Emits the copy of ``columns`` columns, at most ``width``; the rest of the panel becomes 0."""
        if isinstance(columns, int):
            self._some(columns)
            return
        with T.If(columns >= self.width):
            with T.Then():
                self._some(self.width)
            with T.Else():
                self._scalars(columns)

    def _some(self, columns: int) -> None:
        if self.transposed:
            self._scalars(columns)
            return
        whole, rest = divmod(columns, self.lanes)
        with T.serial(0, self.k) as row:
            with T.unroll(0, whole) as v, T.vectorized(0, self.lanes) as lane:
                self.write(row, v * self.lanes + lane, self.read(row, v * self.lanes + lane))
            for first, width in _halves(whole * self.lanes, rest, self.lanes):
                if width == 1:
                    self.write(row, first, self.read(row, first))
                else:
                    with T.vectorized(0, width) as lane:
                        self.write(row, first + lane, self.read(row, first + lane))
            if columns < self.width:
                with T.serial(0, self.width - columns) as c:
                    self.write(row, columns + c, tirx.const(0, self.dtype))

    def _scalars(self, columns: tirx.Expr | int) -> None:
        with T.serial(0, self.k) as row, T.serial(0, columns) as column:
            self.write(row, column, self.read(row, column))
        if not isinstance(columns, int) or columns < self.width:
            with T.serial(0, self.k) as row, T.serial(0, self.width - columns) as column:
                self.write(row, columns + column, tirx.const(0, self.dtype))


def _halves(first: int, count: int, lanes: int) -> list[tuple[int, int]]:
    """``count`` elements, fewer than ``lanes``, as runs of ever smaller powers of two."""
    runs, width = [], lanes // 2
    while count:
        if count >= width:
            runs.append((first, width))
            first, count = first + width, count - width
        width //= 2
    return runs

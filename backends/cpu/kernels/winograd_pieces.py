"""Winograd's transforms of a patch in an order that fits a register file of 32 vectors: no values go to the stack, none are copied.

Half transformed, a patch of F(4 x 4, 3 x 3) has 36 vectors. One piece of its rows is made at a time, column by column, and then
transformed across; LLVM would do all at once if it were left to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.pinned import pinned
from graphopt.backends.cpu.kernels.register_tile import ON_STACK
from graphopt.backends.cpu.kernels.winograd_transforms import Piece


def joined(pieces: Sequence[Piece]) -> Piece:
    """One piece of all."""
    return lambda d: {i: value for piece in pieces for i, value in piece(d).items()}


def transform_in_pieces(
    down: Sequence[Piece],
    across: Sequence[Piece],
    side: int,
    lanes: int,
    dtype: str,
    read: Callable[[int, int, tirx.Expr], tirx.Expr],
    store: Callable[[int, int, tirx.Expr, tirx.Expr], None],
    row: Callable[[int], AbstractContextManager[None]] = lambda i: nullcontext(),
    whole_vectors: bool = False,
) -> None:
    """Emits ``store(i, j, lane, value)`` for every element of ``M d M^T``, where ``d`` has side x side vectors.

    It needs `pinned_imported`.

    Args:
        down: the rows of M, for columns: one piece after the other.
        across: the same, for rows.
        side: rows and columns of d.
        lanes: of a vector.
        dtype: of values half-way.
        read: the element at a row and a column of d, in vectors along the lanes.
        store: emits what becomes of a value, in a loop over the lanes.
        row: what is around the code of a row of results.
        whole_vectors: whether ``read`` and ``store`` take a vector of lanes, in place of a lane of a vectorised loop.
    """

    def each_lane() -> AbstractContextManager[tirx.Expr]:
        return nullcontext(tirx.Ramp(0, 1, lanes)) if whole_vectors else T.vectorized(0, lanes)

    for piece in down:
        half = T.alloc_buffer((side, side, lanes), dtype, scope="local", annotations=ON_STACK)
        rows: list[int] = []
        for x in range(side):
            with each_lane() as lane:
                column = piece([read(y, x, lane) for y in range(side)])
                for i, value in column.items():
                    T.buffer_store(half, value, [i, x, lane])
            rows = sorted(column)
            for i in rows:
                place = [i, x, tirx.Ramp(0, 1, lanes)]
                T.buffer_store(half, pinned(half[tuple(place)], dtype, lanes), place)
        for i in rows:
            with row(i):
                for part in across:
                    with each_lane() as lane:
                        for j, value in part([half[i, x, lane] for x in range(side)]).items():
                            store(i, j, lane, value)

"""The loop over a block of channels, written out for 64-bit ARM in an order that keeps a register tile in registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.pinned import fence, fence_imported, pinned, pinned_imported
from graphopt.backends.cpu.kernels.register_tile import RegisterTile


@contextmanager
def written_out_imported(dtype: str, lanes: int) -> Iterator[None]:
    """Emits what is written inside with `accumulate_written_out` at hand for tiles whose products are added up in a type."""
    with fence_imported(), pinned_imported(dtype, lanes):
        yield


def can_be_written_out(tile: RegisterTile, steps: int, together: int) -> bool:
    """Whether factors come in whole vectors, and all products may be added up in one type."""
    return together > 1 and steps % together == 0 and (not tile.most or steps <= tile.most)


def accumulate_written_out(
    tile: RegisterTile,
    steps: int,
    scalar: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
    vector: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
    together: int,
    *,
    before: Callable[[tirx.Expr], None] | None = None,
    begin: bool = False,
) -> None:
    """Emits ``accumulator[p, c] += scalar(p, k) * vector(k, c)`` for all points and ``k`` below ``steps``.

    Left to itself, LLVM would load the weights of later steps early, and spill: here none are before their step, and sums are
    complete at the end of each turn.

    Args:
        tile: the accumulators; `can_be_written_out` must be true.
        steps: how many.
        scalar: the value of point ``p`` at step ``k``.
        vector: the value of column ``c`` at step ``k``.
        together: steps whose factors of a point are loaded as a vector: a turn.
        before: emits what each step does besides.
        begin: whether accumulators begin with the first product, whatever they hold.
    """
    for first in range(0, steps, together):
        if before is not None:
            for step in range(together):
                before(T.int64(first + step))
        _turn(tile, first, scalar, vector, together, begin and first == 0)


def _turn(
    tile: RegisterTile,
    first: int,
    scalar: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
    vector: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
    together: int,
    begin: bool,
) -> None:
    """Emits the products of the steps whose factors are loaded together."""
    factors = tile.factors(lambda p, s: scalar(p, first + s), together, tile.points)

    def one(step: int) -> None:
        fence()
        columns = lambda c: vector(T.int64(first + step), c)  # noqa: E731
        tile.multiply_add(lambda p: factors[p, step], columns, by_lane=True, begin=begin and step == 0)

    for step in range(together):
        one(step)
        if step == together - 1 or (begin and step == 0):
            tile.each_vector(pinned)

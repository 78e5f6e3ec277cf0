"""Copies between buffers: in the order of the target, or by tiles of shared memory where they transpose.

A warp reads and writes whole sectors of memory only along axes in which elements lie side by side. Where the source's axis is
another one than the target's, a block reads 32 x 32 elements along the one and writes them along the other. Rows of a tile have a
spare element, so that columns of it lie in different banks of shared memory, whatever an element's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.addresses import divided, index_of
from graphopt.backends.cuda.elementwise import elementwise
from graphopt.backends.cuda.grid import barrier, launch, positions
from graphopt.backends.tensors.index import i64, product
from graphopt.backends.tensors.loops import loop, seq
from graphopt.backends.tensors.schedule import NestBody, StridedCopy
from graphopt.backends.tensors.tensor import Expr, Index, Scope, as_expr

TILE = 32
ROWS = 8
"""Rows of a tile that a block moves at once: a warp each."""
FEW = 8
"""Elements of an axis below which most of a tile would be empty."""


def copied(copy: StridedCopy, caps: Caps) -> list[Any]:
    """The launch that does a copy."""
    axis = _turned_axis(copy)
    return _straight(copy, caps) if axis is None else [_transposed(copy, axis)]


def _turned_axis(copy: StridedCopy) -> int | None:
    """The axis along which the source's elements lie side by side, if it isn't that of the target and both are long."""
    last = len(copy.extents) - 1
    along = [a for a, stride in enumerate(copy.read) if isinstance(stride, int) and stride == 1]
    turns = isinstance(copy.write[last], int) and copy.write[last] == 1 and last not in along
    if not turns or not along or any(_is_short(copy.extents[a]) for a in (along[-1], last)):
        return None
    return along[-1]


def _is_short(extent: Expr) -> bool:
    return isinstance(extent, int) and extent <= FEW


def _straight(copy: StridedCopy, caps: Caps) -> list[Any]:
    def evaluate(index: Index, _: Any, lane: tuple[Expr, int] | None = None) -> NestBody:
        with Scope() as scope:
            read, write = _places(copy, index)
            stores = [(copy.target, tirx.BufferLoad(copy.source, [read]), (write,))]
        return NestBody(scope, stores, None, index)

    return elementwise(tuple(copy.extents), evaluate, caps)


def _places(copy: StridedCopy, index: Sequence[Expr]) -> tuple[Expr, Expr]:
    read, write = copy.read_offset, copy.write_offset
    for i, r, w in zip(index, copy.read, copy.write):
        read, write = read + i * r, write + i * w
    return i64(read), i64(write)


def _transposed(copy: StridedCopy, axis: int) -> Any:
    block, thread = positions()
    last = len(copy.extents) - 1
    tile = tirx.decl_buffer((TILE, TILE + 1), str(copy.source.dtype), "tile", scope="shared")
    lane, row = tirx.floormod(thread, as_expr(TILE)), tirx.floordiv(thread, as_expr(TILE))
    others = [a for a in range(last) if a != axis]
    tiles = [_ceil(copy.extents[a], TILE) for a in (axis, last)]
    rest, across = divided(block, tiles[1])
    rest, down = divided(rest, tiles[0])
    at = dict(zip(others, index_of(rest, [copy.extents[a] for a in others])))
    corner = {axis: down * TILE, last: across * TILE}

    def part(number: Any, by_source: bool) -> Any:
        """One element of this thread: in the source's order ``lane`` goes along ``axis``, in the target's along the last one."""
        along, beside = (axis, last) if by_source else (last, axis)
        step = row + number * ROWS
        position = {**at, along: corner[along] + lane, beside: corner[beside] + step}
        read, write = _places(copy, [position[a] for a in range(last + 1)])
        if by_source:
            moved = tirx.BufferStore(tile, tirx.BufferLoad(copy.source, [read]), [step, lane])
        else:
            moved = tirx.BufferStore(copy.target, tirx.BufferLoad(tile, [lane, step]), [write])
        inside = [position[a] < as_expr(copy.extents[a]) for a in (along, beside) if _is_ragged(copy.extents[a])]
        if not inside:
            return moved
        return tirx.IfThenElse(inside[0] if len(inside) == 1 else tirx.And(*inside), moved, None)

    read, write = tirx.Var("read", "int64"), tirx.Var("write", "int64")
    body = seq([
        tirx.AllocBuffer(tile),
        loop(read, TILE // ROWS, part(read, True), tirx.ForKind.UNROLLED),
        barrier(),
        loop(write, TILE // ROWS, part(write, False), tirx.ForKind.UNROLLED),
    ])  # fmt: skip
    return launch(block, product([*tiles, *(copy.extents[a] for a in others)]), thread, TILE * ROWS, body)


def _is_ragged(extent: Expr) -> bool:
    return not isinstance(extent, int) or extent % TILE != 0


def _ceil(value: Expr, divisor: int) -> Expr:
    return -(-value // divisor) if isinstance(value, int) else tirx.floordiv(value + (divisor - 1), as_expr(divisor))

"""Copies between buffers: strided walks, with dimensions merged and transpositions cut into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphopt.backends.base.tvm_api import tirx, tvm_ffi
from graphopt.backends.tensors.index import floordiv, floormod, i64, product, row_major
from graphopt.backends.tensors.schedule import NestBody, StridedCopy
from graphopt.backends.tensors.tensor import Expr, Index, Scope
from graphopt.ir.layout import PLAIN, Layout

if TYPE_CHECKING:
    from graphopt.backends.tensors.builder import KernelBuilder

TILE = 8
"""Rows transposed together: as many cache lines are read at once, each used up before it leaves the cache."""


@dataclass(frozen=True)
class Walk:
    """The elements of a tensor, in the order of ``layout``, are those of ``buffer`` at ``offset + i * strides``.

    Attributes:
        extents: iteration space, outermost first; not always the tensor's shape (a depth-to-space has more dimensions).
        layout: the order that is meant. Buffers whose axes are merely permuted are walked in the order of the tensor's own axes.
    """

    buffer: Any
    offset: Expr
    extents: Index
    strides: Index
    layout: Layout = PLAIN


def whole(buffer: Any, shape: Sequence[Expr]) -> Walk:
    """The walk over all of a row-major buffer of this shape."""
    return Walk(buffer, 0, tuple(shape), row_major(shape))


def walk_of(buffer: Any, shape: Sequence[Expr], layout: Layout) -> Walk:
    """The walk over a tensor of this logical shape that a buffer holds in some layout."""
    walk = whole(buffer, layout.physical_shape(shape))
    if layout.blocks:
        return replace(walk, layout=layout)
    order = layout.axes(len(shape))
    return walk if layout.is_plain else permuted(walk, [order.index(axis) for axis in range(len(order))])


def reordered(walk: Walk, shape: Sequence[Expr], layout: Layout) -> Walk | None:
    """The same elements in another order than that of the walk; None if walks can't tell: blocks are loops of their own."""
    if walk.layout.blocks or layout.blocks or not same_dims(walk.extents, shape):
        return None
    return replace(permuted(walk, layout.axes(len(shape))), layout=layout)


def is_whole(walk: Walk) -> bool:
    """Whether the walk goes through memory element by element from the start of a row-major buffer."""
    return walk.layout.is_plain and _is(walk.offset, 0) and same_dims(walk.strides, row_major(walk.extents))


def same_dims(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    """Whether extents or strides are certainly equal."""
    return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b))


def permuted(walk: Walk, axes: Sequence[int]) -> Walk:
    """Iterate in another order of axes."""
    return replace(walk, extents=tuple(walk.extents[a] for a in axes), strides=tuple(walk.strides[a] for a in axes))


def cropped(walk: Walk, begin: Sequence[Expr], extents: Sequence[Expr], steps: Sequence[Expr]) -> Walk:
    """Every ``steps``-th position from ``begin``."""
    offset = walk.offset
    for b, s in zip(begin, walk.strides):
        offset = offset + b * s
    return replace(
        walk, offset=offset, extents=tuple(extents), strides=tuple(s * k for s, k in zip(walk.strides, steps))
    )


def emit_walk(builder: KernelBuilder, walk: Walk, buffer: Any, offset: Expr, strides: Sequence[Expr]) -> None:
    """Copy to ``buffer`` at ``offset + i * strides``."""
    source, target = builder.flat(walk.buffer), builder.flat(buffer)
    extents, src, dst = _merged(walk.extents, walk.strides, strides)
    copy = StridedCopy(source, target, walk.offset, offset, extents, src, dst)
    statements = builder.schedule.copy(copy, builder.caps)
    if statements is not None:
        builder.statements.extend(statements)
        return
    for shape, axes, rows, row_axis, first in _loops(extents, src):

        def evaluate(
            index: Index,
            _: Any,
            lane: tuple[Expr, int] | None = None,
            axes: list[int] = axes,
            rows: int = rows,
            row_axis: int = row_axis,
            first: Expr = first,
        ) -> Any:
            position: dict[int, Expr] = dict(zip(axes, index))
            stores = []
            with Scope() as scope:
                for row in range(rows):
                    at = dict(position)
                    if row_axis >= 0:
                        at[row_axis] = at.get(row_axis, 0) * rows + (first + row)
                    read, write = walk.offset, offset
                    for axis, i in at.items():
                        read, write = read + i * src[axis], write + i * dst[axis]
                    stores.append((target, tirx.BufferLoad(source, [i64(read)]), (i64(write),)))
            return NestBody(scope, stores, None, index)

        builder.statements.extend(builder.schedule.nest(shape, evaluate, builder.caps))


Loops = tuple[Index, list[int], int, int, Expr]
"""Nest shape, the axis of each of its dimensions, stores per iteration along which axis, first position there."""


def _loops(extents: Index, src: Index) -> list[Loops]:
    axes = list(range(len(extents)))
    straight: list[Loops] = [(extents, axes, 1, -1, 0)]
    few = isinstance(extents[-1], int) and extents[-1] < TILE
    if len(extents) < 2 or _is(src[-1], 1) or (_is(src[-1], 0) and not few):
        return straight
    near = [a for a in axes[:-1] if _is(src[a], 1)]
    if not near:
        return straight
    axis, last = near[-1], len(extents) - 1
    if few:
        # few columns: run along the source instead, storing one element of every column
        order = [a for a in axes[:-1] if a != axis] + [axis]
        return [(tuple(extents[a] for a in order), order, extents[last], last, 0)]
    extent = extents[axis]
    rows = min(TILE, extent) if isinstance(extent, int) else TILE
    full, rest = floordiv(extent, rows), floormod(extent, rows)
    tiled = tuple(full if a == axis else d for a, d in enumerate(extents))
    out: list[Loops] = [(tiled, axes, rows, axis, 0)]
    if not _is(rest, 0):
        left = tuple(rest if a == axis else d for a, d in enumerate(extents))
        out.append((left, axes, 1, axis, extent - rest))
    return out


def _merged(extents: Sequence[Expr], src: Sequence[Expr], dst: Sequence[Expr]) -> tuple[Index, Index, Index]:
    """Neighbouring dimensions that are one dimension in both buffers become one; those of extent 1 go."""
    out: list[tuple[Expr, Expr, Expr]] = []
    for d, s, t in zip(extents, src, dst):
        if _is(d, 1):
            continue
        if out and _equal(out[-1][1], s * d) and _equal(out[-1][2], t * d):
            out[-1] = (out[-1][0] * d, s, t)
        else:
            out.append((d, s, t))
    if not out:
        out = [(1, 1, 1)]
    return tuple(o[0] for o in out), tuple(o[1] for o in out), tuple(o[2] for o in out)


def _is(value: Expr, number: int) -> bool:
    return isinstance(value, int) and value == number


def _equal(a: Expr, b: Expr) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    # no analyzer: proving equality of shapes full of selections takes for ever, and strides are products built alike
    return bool(tvm_ffi.structural_equal(i64(a), i64(b)))


def flat_alias(buffer: Any) -> Any:
    """``buffer`` as one dimension, and the statement that declares it."""
    alias = tirx.decl_buffer(
        [i64(product(list(buffer.shape)))], str(buffer.dtype), f"{buffer.name}_flat", data=buffer.data
    )
    return alias, tirx.DeclBuffer(alias, data=buffer.data)

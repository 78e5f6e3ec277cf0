"""Operators that move elements by position: views, transposes, slices, repetition, joining and splitting."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.lower.registry import LowerContext, Lowered, lowers
from graphopt.backends.tensors.index import flatten, floordiv, floormod, unflatten
from graphopt.backends.tensors.tensor import Expr, Tensor, broadcast_index, choose
from graphopt.backends.tensors.walk import Walk, cropped, is_whole, permuted, same_dims, whole
from graphopt.ops.movement import slice_bounds, split_sizes


def plain_walk(x: Tensor) -> Walk | None:
    """How ``x`` lies in a row-major buffer dimension by dimension, None if it doesn't."""
    walk: Walk | None = x.walk
    return walk if walk is not None and walk.layout.is_plain and same_dims(walk.extents, x.shape) else None


@lowers("Transpose")
def _transpose(c: LowerContext) -> Lowered:
    x = c.x(0)
    return transposed(x, [int(p) for p in c.attr("perm") or range(x.rank)[::-1]])


def transposed(x: Tensor, perm: Sequence[int]) -> Tensor:
    """``x`` with axes reordered as by numpy."""
    inverse = [perm.index(a) for a in range(x.rank)]
    walk = plain_walk(x)
    return Tensor(
        tuple(x.shape[p] for p in perm), x.dtype, lambda *i: x(*(i[p] for p in inverse)),
        walk=None if walk is None else permuted(walk, perm),
    )  # fmt: skip


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(c: LowerContext) -> Lowered:
    return reshaped(c.x(0), c.out_shape())


def reshaped(x: Tensor, shape: Sequence[Expr]) -> Tensor:
    """The same elements in the same order."""
    walk = x.walk if x.walk is not None and x.walk.layout.is_plain else None
    return Tensor(shape, x.dtype, lambda *i: x(*unflatten(flatten(i, shape), x.shape)), walk=walk)


@lowers("Concat")
def _concat(c: LowerContext) -> Lowered:
    parts = c.operands
    return concatenated(parts, c.axis(int(c.attr("axis")), parts[0].rank), c.out_shape())


def concatenated(parts: Sequence[Tensor], axis: int, shape: Sequence[Expr]) -> Tensor:
    """Tensors one after the other along ``axis``."""
    starts: list[Expr] = [0]
    for part in parts:
        starts.append(starts[-1] + part.shape[axis])

    def element(*i: Expr) -> Expr:
        def pick(n: int) -> Expr:
            def here() -> Expr:
                return parts[n](*i[:axis], i[axis] - starts[n], *i[axis + 1 :])

            return here() if n == len(parts) - 1 else choose(i[axis] < starts[n + 1], here, lambda: pick(n + 1))

        return pick(0)

    zeros = (0,) * len(shape)
    placed = [(p, (*zeros[:axis], s, *zeros[axis + 1 :])) for p, s in zip(parts, starts)]
    return Tensor(shape, parts[0].dtype, element, parts=placed)


@lowers("Split")
def _split(c: LowerContext) -> Lowered:
    x = c.x(0)
    axis = c.axis(int(c.attr("axis")), x.rank)
    out: list[Tensor] = []
    start: Expr = 0
    for size in c.dims(split_sizes(c)):
        begin = tuple(start if a == axis else 0 for a in range(x.rank))
        out.append(sliced(x, begin, tuple(size if a == axis else d for a, d in enumerate(x.shape)), (1,) * x.rank))
        start = start + size
    return out


@lowers("Slice")
def _slice(c: LowerContext) -> Lowered:
    bounds = slice_bounds(c)
    begin = c.dims([first for first, _, _ in bounds])
    steps = c.dims([step for _, _, step in bounds])
    return sliced(c.x(0), begin, c.out_shape(), steps)


def sliced(x: Tensor, begin: Sequence[Expr], shape: Sequence[Expr], steps: Sequence[Expr]) -> Tensor:
    """``shape`` elements from ``begin`` on, every ``steps``-th (a negative step walks back)."""
    walk = plain_walk(x)
    return Tensor(
        shape, x.dtype, lambda *i: x(*(b + p * s for b, p, s in zip(begin, i, steps))),
        walk=None if walk is None else cropped(walk, begin, shape, steps),
    )  # fmt: skip


@lowers("Expand")
def _expand(c: LowerContext) -> Lowered:
    x, shape = c.broadcast_operand(0, c.node.out.shape), c.out_shape()
    walk = plain_walk(x)
    if walk is not None:
        lead = len(shape) - x.rank
        kept = [0 if isinstance(d, int) and d == 1 else s for d, s in zip(x.shape, walk.strides)]
        walk = Walk(walk.buffer, walk.offset, tuple(shape), (*(0,) * lead, *kept))
    return Tensor(shape, x.dtype, lambda *i: x(*broadcast_index(x, i)), walk=walk)


@lowers("Tile")
def _tile(c: LowerContext) -> Lowered:
    x = c.x(0)
    repeats = c.dims(list(c.content(1).reshape(-1)))
    walk = plain_walk(x)
    if walk is not None:
        # repeat, then walk: twice as many dimensions
        pairs = [((r, d), (0, s)) for r, d, s in zip(repeats, walk.extents, walk.strides)]
        walk = Walk(
            walk.buffer, walk.offset, tuple(e for p, _ in pairs for e in p), tuple(s for _, p in pairs for s in p)
        )
    return Tensor(c.out_shape(), x.dtype, lambda *i: x(*(floormod(p, d) for p, d in zip(i, x.shape))), walk=walk)


@lowers("DepthToSpace")
def _depth_to_space(c: LowerContext) -> Lowered:
    x = c.x(0)
    b = int(c.attr("blocksize"))
    n, channels, h, w = x.shape
    depth = floordiv(channels, b * b)
    split, perm = ((n, b, b, depth, h, w), (0, 3, 4, 1, 5, 2))
    if c.attr("mode") == "CRD":
        split, perm = ((n, depth, b, b, h, w), (0, 1, 4, 2, 5, 3))
    return _regrouped(x, split, perm, c.out_shape())


@lowers("SpaceToDepth")
def _space_to_depth(c: LowerContext) -> Lowered:
    x = c.x(0)
    b = int(c.attr("blocksize"))
    n, channels, h, w = x.shape
    split = (n, channels, floordiv(h, b), b, floordiv(w, b), b)
    crd = c.attr("mode") == "CRD"
    return _regrouped(x, split, (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4), c.out_shape())


def _regrouped(x: Tensor, split: Sequence[Expr], perm: Sequence[int], shape: Sequence[Expr]) -> Tensor:
    """``x`` seen with the dimensions ``split``, transposed, seen with the dimensions ``shape``."""
    inner = transposed(_split_dims(x, split), perm)
    return Tensor(shape, x.dtype, lambda *i: inner(*unflatten(flatten(i, shape), inner.shape)), walk=inner.walk)


def _split_dims(x: Tensor, shape: Sequence[Expr]) -> Tensor:
    walk = whole(x.walk.buffer, shape) if x.walk is not None and is_whole(x.walk) else None
    return Tensor(shape, x.dtype, lambda *i: x(*unflatten(flatten(i, shape), x.shape)), walk=walk)

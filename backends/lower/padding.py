"""Operators that add or take away at the borders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.movement import sliced
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.index import (
    clamp,
    every,
    floordiv,
    floormod,
    i64,
    inside,
    largest,
    never_empty,
    smallest,
)
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, choose
from graphopt.ops.movement import pad_amounts


@lowers("Pad")
def _pad(c: LowerContext) -> Lowered:
    x = c.x(0)
    mode = c.attr("mode") or "constant"
    amounts = pad_amounts(c)
    begin = c.dims([b for b, _ in amounts])
    if mode == "constant":
        fill = c.x(2) if c.has(2) else None
        after = c.dims([e for _, e in amounts])

        def value() -> Expr:
            return const(0, x.dtype) if fill is None else fill(*(0,) * fill.rank)

        return framed(x, begin, c.out_shape(), value, after)
    if mode not in _SOURCES:
        raise c.unsupported(f"Pad with mode {mode}")
    source = _SOURCES[mode]
    end = c.dims([e for _, e in amounts])
    # Negative amounts crop first, and what is left is continued: so ONNX Runtime does it, and numpy on the cropped array.
    cut = [largest(0 - b, 0) for b in begin]
    kept = [d - front - largest(0 - e, 0) for d, front, e in zip(x.shape, cut, end)]

    def along(p: Expr, axis: int) -> Expr:
        if _is_zero(amounts[axis]):
            return p
        return source(p - largest(begin[axis], 0), kept[axis]) + cut[axis]

    def element(*i: Expr) -> Expr:
        return x(*(along(p, axis) for axis, p in enumerate(i)))

    parts = _frame_parts(x, begin, c.out_shape(), lambda extent, origin: _moved(element, x.dtype, extent, origin), end)
    return Tensor(c.out_shape(), x.dtype, element, parts=parts)


def _moved(element: Callable[..., Expr], dtype: str, extent: Index, origin: Index) -> Tensor:
    """A part of a tensor that begins at ``origin``."""
    return Tensor(extent, dtype, lambda *i: element(*(p if _zero(o) else p + o for p, o in zip(i, origin))))


def _is_zero(amount: object) -> bool:
    return amount == (0, 0)


def _reflect(p: Expr, extent: Expr) -> Expr:
    period = 2 * extent - 2
    if isinstance(extent, int) and extent <= 1:
        return 0
    around = floormod(p, period if isinstance(period, int) else largest(period, 1))
    return smallest(around, period - around)


def _wrap(p: Expr, extent: Expr) -> Expr:
    return floormod(p, extent if isinstance(extent, int) and extent > 0 else largest(extent, 1))


_SOURCES: dict[str, Callable[[Expr, Expr], Expr]] = {"reflect": _reflect, "edge": clamp, "wrap": _wrap}


def framed(
    x: Tensor,
    begin: Sequence[Expr],
    shape: Sequence[Expr],
    fill: Callable[[], Expr],
    after: Sequence[Expr] | None = None,
) -> Tensor:
    """``x`` placed with its first element at ``begin`` (cropped where that is negative or goes beyond), ``fill`` elsewhere.

    Args:
        x: what is placed.
        begin: where.
        shape: of the result.
        fill: the value elsewhere.
        after: how much is added behind, where that is known better than by the extents' difference.
    """

    def element(*i: Expr) -> Expr:
        at = [p - b for p, b in zip(i, begin)]
        within = every([
            inside(q, d) for q, b, d, e in zip(at, begin, x.shape, shape) if not (_zero(b) and e is d)
        ])  # fmt: skip
        if within is True:
            return x(*at)
        if not never_empty(x.shape):
            return choose(within, lambda: x(*at), fill)
        # a clamped load and a select vectorise; a branch would not
        return tirx.Select(within, x(*(clamp(q, d) for q, d in zip(at, x.shape))), fill())

    parts = _frame_parts(x, begin, shape, lambda extent, _: Tensor(extent, x.dtype, lambda *_: fill()), after)
    return Tensor(shape, x.dtype, element, parts=parts)


def _zero(value: Expr) -> bool:
    return isinstance(value, int) and value == 0


def _frame_parts(
    x: Tensor,
    begin: Sequence[Expr],
    shape: Sequence[Expr],
    slab: Callable[[Index, Index], Tensor],
    after: Sequence[Expr] | None = None,
) -> list[tuple[Tensor, Index]] | None:
    """The interior and one slab before and after it per axis, where they are known to be non-negative.

    Args:
        x: the interior.
        begin: where it is.
        shape: of all.
        slab: ``slab(extents, where it begins)``.
        after: extents behind the interior; by default the difference of the others.
    """
    fixed = [b for b in begin if isinstance(b, int)]
    after = [e - b - d for b, d, e in zip(begin, x.shape, shape)] if after is None else after
    static = [a for a in after if isinstance(a, int)]
    changed = [
        a for a, (b, d, e) in enumerate(zip(begin, x.shape, shape)) if not (_zero(b) and (e is d or _zero(after[a])))
    ]
    if len(fixed) != len(begin) or any(not isinstance(after[a], int) for a in changed):
        return None
    if any(b < 0 for b in fixed) or any(a < 0 for a in static):
        return None
    parts: list[tuple[Tensor, Index]] = [(sliced(x, (0,) * x.rank, x.shape, (1,) * x.rank), tuple(begin))]
    for axis in changed:
        # axes before this one: all of the output; after it: the interior only
        for start, count in ((0, begin[axis]), (begin[axis] + x.shape[axis], after[axis])):
            if _zero(count):
                continue
            extent = (*shape[:axis], count, *x.shape[axis + 1 :])
            origin = (*(0,) * axis, start, *begin[axis + 1 :])
            parts.append((slab(extent, origin), origin))
    return parts


@lowers("CenterCropPad")
def _center_crop_pad(c: LowerContext) -> Lowered:
    x, shape = c.x(0), c.out_shape()
    begin: list[Expr] = []
    for have, want in zip(x.shape, shape):
        if have is want or (isinstance(have, int) and isinstance(want, int) and have == want):
            begin.append(0)
        elif isinstance(have, int) and isinstance(want, int):
            begin.append((want - have) // 2 if want > have else -((have - want) // 2))
        else:
            more = i64(want - have)
            begin.append(tirx.Select(more > 0, floordiv(more, 2), -floordiv(-more, 2)))
    return framed(x, begin, shape, lambda: const(0, x.dtype))

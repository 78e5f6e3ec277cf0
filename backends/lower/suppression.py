"""NonMaxSuppression."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers, measures
from graphopt.backends.lower.topk import merge_sort
from graphopt.backends.tensors.imperative import Code, result
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.tensor import Expr, Tensor


@measures("NonMaxSuppression")
def _count(c: LowerContext) -> Tensor:
    return result(_suppress(c, None), (1,), "int64")


@lowers("NonMaxSuppression")
def _non_max_suppression(c: LowerContext) -> Lowered:
    shape = c.out_shape()
    selected = Code(c.k).scratch(shape, "int64")
    _suppress(c, selected)
    return result(selected, shape, "int64")


def _scalar(c: LowerContext, i: int) -> Expr | None:
    if not c.has(i):
        return None
    x = c.x(i)
    return x(*(0,) * x.rank)


def _suppress(c: LowerContext, selected: Any | None) -> Any:
    """Write (batch, class, box) rows to ``selected`` unless None; returns a buffer with their number."""
    boxes, scores = c.x(0), c.x(1)
    batches, classes, count = scores.shape
    limit = _scalar(c, 2)
    overlap = _scalar(c, 3)
    least = _scalar(c, 4)
    code = Code(c.k)
    order, spare = code.scratch((count,), "int64"), code.scratch((count,), "int64")
    kept = code.scratch((count,), "int64")
    number = code.scratch((1,), "int64")
    total = code.cell("int64", i64(0))
    most = code.let(i64(0) if limit is None else tirx.max(i64(limit), i64(0)))
    with code.nest((batches, classes)) as (batch, cls):
        candidates = code.cell("int64", i64(0))
        with code.loop(count) as n, code.when(True if least is None else scores(batch, cls, n) > least):
            code.store(order, n, candidates.get())
            candidates.set(candidates.get() + 1)
        found = code.let(candidates.get())
        # the sort is stable: of equal scores the lower index comes first
        merge_sort(code, order, spare, found, lambda a, b: scores(batch, cls, a) > scores(batch, cls, b))
        taken = code.cell("int64", i64(0))
        with code.loop(found) as n, code.when(taken.get() < most):
            box = code.let(code.load(order, n))
            free = code.cell("bool", tirx.const(True, "bool"))
            other = code.cell("int64", i64(0))
            with code.while_(tirx.And(free.get(), other.get() < taken.get())):
                mate = code.let(code.load(kept, other.get()))
                free.set(tirx.Not(_overlaps(c, code, boxes, batch, box, mate, overlap)))
                other.set(other.get() + 1)
            with code.when(free.get()):
                code.store(kept, box, taken.get())
                if selected is not None:
                    for column, value in enumerate((batch, cls, box)):
                        code.store(selected, value, total.get(), column)
                taken.set(taken.get() + 1)
                total.set(total.get() + 1)
    code.store(number, total.get(), 0)
    code.finish()
    return number


def _overlaps(
    c: LowerContext, code: Code, boxes: Tensor, batch: Expr, a: Expr, b: Expr, threshold: Expr | None
) -> Expr:
    """Whether the intersection over the union of two boxes exceeds the threshold."""
    dtype = boxes.dtype
    zero = const(0, dtype)
    first, second = (_sides(c, code, boxes, batch, n) for n in (a, b))
    width = code.let(tirx.min(first[1], second[1]) - tirx.max(first[0], second[0]))
    height = code.let(tirx.min(first[3], second[3]) - tirx.max(first[2], second[2]))
    area_a, area_b = ((s[1] - s[0]) * (s[3] - s[2]) for s in (first, second))
    both = code.let(width * height)
    union = code.let(area_a + area_b - both)
    real = [width > zero, height > zero, both > zero, area_a > zero, area_b > zero, union > zero]
    limit = zero if threshold is None else threshold
    return code.let(tirx.all(*real, both / tirx.Select(union > zero, union, const(1, dtype)) > limit))


def _sides(c: LowerContext, code: Code, boxes: Tensor, batch: Expr, n: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """Left, right, top and bottom, in whichever order a box names its corners."""
    v = [code.let(boxes(batch, n, k)) for k in range(4)]
    if int(c.attr("center_point_box") or 0):
        half = const(2, boxes.dtype)
        x, y, w, h = v[0], v[1], v[2] / half, v[3] / half
        return x - w, x + w, y - h, y + h
    return tirx.min(v[1], v[3]), tirx.max(v[1], v[3]), tirx.min(v[0], v[2]), tirx.max(v[0], v[2])

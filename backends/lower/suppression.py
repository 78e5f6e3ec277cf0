"""NonMaxSuppression: candidates by score, each compared with the boxes that are kept so far, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.radix import Sorter, key_of, position_of, shared_rows, word_of, workers_for
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers, measures
from graphopt.backends.tensors.imperative import Code, result
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.tensor import Expr, Tensor

_TOGETHER = 16
"""Kept boxes that a candidate is compared with before it is known whether to go on."""


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
    limit, overlap, least = (_scalar(c, i) for i in (2, 3, 4))
    sides = [c.k.stage(side) for side in _sides(c, boxes)]
    code = Code(c.k)
    lists = batches * classes
    workers = workers_for(code, lists * count)
    sorter = Sorter(code, workers, count)
    kept = [code.scratch((workers, count + _TOGETHER), boxes.dtype) for _ in sides]
    chosen = code.scratch((lists, count), "int64")
    numbers = code.scratch((lists,), "int64")
    most = code.let(i64(0) if limit is None else tirx.max(i64(limit), i64(0)))
    threshold = code.let(const(0, boxes.dtype) if overlap is None else overlap)
    with shared_rows(code, lists, workers) as (worker, row):
        batch, cls = code.let(tirx.floordiv(row, i64(classes))), code.let(tirx.floormod(row, i64(classes)))
        candidates = code.cell("int64", i64(0))
        with code.loop(count) as n:
            score = code.let(scores(batch, cls, n))
            with code.when(True if least is None else score > least):
                # of equal scores the lower index comes first
                word = word_of(key_of(score, scores.dtype, descending=True), n)
                code.store(sorter.words, word, worker, candidates.get())
                candidates.set(candidates.get() + 1)
        found = code.let(candidates.get())
        sorter.sort(worker, found)
        taken = code.cell("int64", i64(0))
        turn = code.cell("int64", i64(0))
        with code.while_(tirx.And(turn.get() < found, taken.get() < most)):
            box = code.let(position_of(code.load(sorter.words, worker, turn.get())))
            turn.set(turn.get() + 1)
            own = [code.let(side(batch, box)) for side in sides]
            free = code.cell("int32", const(1, "int32"))
            begin = code.cell("int64", i64(0))
            with code.while_(tirx.And(tirx.EQ(free.get(), const(1, "int32")), begin.get() < taken.get())):
                first = code.let(begin.get())
                met = _meets(code, own, kept, worker, first, code.let(taken.get()), threshold)
                free.set(tirx.Select(met > 0, const(0, "int32"), const(1, "int32")))
                begin.set(first + _TOGETHER)
            with code.when(tirx.EQ(free.get(), const(1, "int32"))):
                for buffer, value in zip(kept, own):
                    code.store(buffer, value, worker, taken.get())
                code.store(chosen, box, row, taken.get())
                taken.set(taken.get() + 1)
        code.store(numbers, taken.get(), row)
    total = code.cell("int64", i64(0))
    with code.loop(lists) as row:
        number = code.let(code.load(numbers, row))
        if selected is not None:
            batch, cls = tirx.floordiv(row, i64(classes)), tirx.floormod(row, i64(classes))
            with code.loop(number) as n:
                for column, value in enumerate((batch, cls, code.load(chosen, row, n))):
                    code.store(selected, value, total.get() + n, column)
        total.set(total.get() + number)
    answer = code.scratch((1,), "int64")
    code.store(answer, total.get(), 0)
    code.finish()
    return answer


def _meets(
    code: Code, own: Sequence[Expr], kept: Sequence[Any], worker: Expr, first: Expr, taken: Expr, threshold: Expr
) -> Expr:
    """How many of the kept boxes from ``first`` on, `_TOGETHER` at most, overlap a box by more than the threshold."""
    lane = tirx.Var(code.fresh("lane"), "int32")
    met = code.local(_TOGETHER, "int32", "met")
    at = first + lane.astype("int64")
    theirs = [code.load(buffer, worker, at) for buffer in kept]
    hit = tirx.And(_overlaps(own, theirs, threshold), at < taken)
    store = tirx.BufferStore(met, tirx.Select(hit, const(1, "int32"), const(0, "int32")), [lane])
    code.add(tirx.For(lane, const(0, "int32"), const(_TOGETHER, "int32"), tirx.ForKind.VECTORIZED, store))
    total: Expr = const(0, "int32")
    for i in range(_TOGETHER):
        total = total + tirx.BufferLoad(met, [const(i, "int32")])
    return code.let(total)


def _overlaps(first: Sequence[Expr], second: Sequence[Expr], threshold: Expr) -> Expr:
    """Whether the intersection over the union of two boxes exceeds the threshold."""
    zero, one = (const(n, str(threshold.ty.dtype)) for n in (0, 1))
    width = tirx.min(first[1], second[1]) - tirx.max(first[0], second[0])
    height = tirx.min(first[3], second[3]) - tirx.max(first[2], second[2])
    both = width * height
    union = first[4] + second[4] - both
    real = [width > zero, height > zero, both > zero, first[4] > zero, second[4] > zero, union > zero]
    return tirx.all(*real, both / tirx.Select(union > zero, union, one) > threshold)


def _sides(c: LowerContext, boxes: Tensor) -> list[Tensor]:
    """Left, right, top, bottom and area, in whichever order a box names its corners."""
    shape, dtype = boxes.shape[:2], boxes.dtype
    by_center = bool(int(c.attr("center_point_box") or 0))
    # the columns of one axis: center and extent, or both ends
    columns = ((0, 2), (1, 3)) if by_center else ((1, 3), (0, 2))

    def end(axis: int, far: bool, at: Sequence[Expr]) -> Expr:
        a, b = (boxes(*at, column) for column in columns[axis])
        if not by_center:
            return tirx.max(a, b) if far else tirx.min(a, b)
        half = b / const(2, dtype)
        return a + half if far else a - half

    def area(*at: Expr) -> Expr:
        return (end(0, True, at) - end(0, False, at)) * (end(1, True, at) - end(1, False, at))

    ends = [Tensor(shape, dtype, lambda *at, a=a, f=f: end(a, f, at)) for a in (0, 1) for f in (False, True)]
    return [*ends, Tensor(shape, dtype, area)]

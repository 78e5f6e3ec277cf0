"""TopK and Unique: sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.radix import (
    KEYED,
    MOST_POSITIONS,
    WORD,
    Sorter,
    key_of,
    last_word,
    position_of,
    shared_rows,
    word_of,
    workers_for,
)
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers, measures
from graphopt.backends.tensors import exact
from graphopt.backends.tensors.imperative import Cell, Code, result
from graphopt.backends.tensors.index import i64, product, unflatten
from graphopt.backends.tensors.math import is_nan
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, let

FEW = 16
"""Most elements wanted for which these are kept in order all the time."""
HEAP_FACTOR = 4
"""With fewer than a quarter of the elements wanted, a heap of these beats sorting all."""
Before = Callable[[Expr, Expr], Expr]
Find: TypeAlias = "Callable[[Expr, Expr, Callable[[Expr], Expr]], Any]"
"""``(worker, extent, word at a position)`` to the buffer that has the best words of a row in order, a row for each worker."""


def merge_sort(code: Code, order: Any, spare: Any, count: Expr, before: Before) -> None:
    """Sort the positions in ``order[:count]``, stably; ``before(a, b)``: whether position a belongs strictly before b.

    Bottom-up merges of runs of 1, 2, 4, ... elements between ``order`` and ``spare``.
    """
    if isinstance(count, int) and count <= 1:
        return
    total = code.let(i64(count))
    width = code.cell("int64", i64(1))
    with code.while_(width.get() < total):
        run = code.let(width.get())
        with code.loop(tirx.floordiv(total + run * 2 - 1, run * 2)) as block:
            low = code.let(block * run * 2)
            middle = code.let(tirx.min(low + run, total))
            high = code.let(tirx.min(low + run * 2, total))
            left, right = code.cell("int64", low), code.cell("int64", middle)
            with code.loop(high - low) as n:
                a = code.let(code.load(order, tirx.min(left.get(), total - 1)))
                b = code.let(code.load(order, tirx.min(right.get(), total - 1)))
                from_right = code.cell("bool", tirx.const(False, "bool"))
                with code.when(right.get() < high):
                    from_right.set(tirx.const(True, "bool"))
                    with code.when(left.get() < middle):
                        from_right.set(before(b, a))
                taken = code.let(from_right.get())
                code.store(spare, tirx.Select(taken, b, a), low + n)
                step = code.let(tirx.Select(taken, i64(1), i64(0)))
                right.set(right.get() + step)
                left.set(left.get() + 1 - step)
        with code.loop(total) as n:
            code.store(order, code.load(spare, n), n)
        width.set(run * 2)


def select(code: Code, order: Any, heap: Any, count: int, total: Expr, before: Before) -> None:
    """Put the first ``count`` of ``total`` positions, sorted, into ``order``: a heap keeps the best with the worst on top."""
    if count == 0:
        return

    def precedes(a: Expr, b: Expr) -> Expr:
        return tirx.Or(before(a, b), tirx.And(exact.negation(before(b, a)), a < b))

    with code.loop(count) as n:
        code.store(order, n, n)
    merge_sort(code, order, heap, count, before)
    with code.loop(count) as n:  # worst first is a heap already
        code.store(heap, code.load(order, count - 1 - n), n)
    with code.loop(total - count) as m:
        p = code.let(m + count)
        # of equal elements the earlier one stays
        with code.when(before(p, code.let(code.load(heap, 0)))):
            hole = code.cell("int64", i64(0))
            child = code.cell("int64", i64(1))
            with code.while_(child.get() < count):
                at = code.let(child.get())
                right = code.let(tirx.min(at + 1, i64(count - 1)))
                left_value, right_value = code.let(code.load(heap, at)), code.let(code.load(heap, right))
                worse = code.let(tirx.Select(precedes(left_value, right_value), right, at))
                found = code.let(code.load(heap, worse))
                sinks = code.let(precedes(p, found))
                with code.when(sinks):
                    code.store(heap, found, hole.get())
                    hole.set(worse)
                child.set(tirx.Select(sinks, worse * 2 + 1, i64(count)))
            code.store(heap, p, hole.get())
    with code.loop(count) as n:
        code.store(order, code.load(heap, n), n)
    merge_sort(code, order, heap, count, precedes)


def numbers_first(a: Expr, b: Expr, dtype: str, descending: bool) -> Expr:
    """Whether ``a`` comes strictly before ``b``; NaN counts as the greatest number, as in numpy."""
    first, second = (b, a) if descending else (a, b)
    ahead = exact.less(first, second)
    if not dtype.startswith("float"):
        return ahead
    return tirx.Or(ahead, tirx.And(is_nan(second), exact.negation(is_nan(first))))


@lowers("TopK")
def _topk(c: LowerContext) -> Lowered:
    x = c.x(0)
    axis = c.axis(int(c.attr("axis")), x.rank)
    shape = c.out_shape()
    largest = bool(int(c.attr("largest", 1)))
    extent, k = x.shape[axis], shape[axis]
    if isinstance(extent, int) and isinstance(k, int) and k > extent:
        raise c.invalid(f"TopK of {k} out of {extent} elements")
    others = (*x.shape[:axis], *x.shape[axis + 1 :])
    if c.k.schedule.spreads_work:
        return _by_counting(c, axis, largest)
    if x.dtype in KEYED and not (isinstance(extent, int) and extent >= MOST_POSITIONS):
        return _by_keys(c, axis, largest)
    code = Code(c.k)
    indices = code.scratch((product(others), k), "int64")
    order, spare = code.scratch((extent,), "int64"), code.scratch((extent,), "int64")
    with code.loop(product(others)) as row:
        at = unflatten(row, others)

        def key(p: Expr, at: tuple[Expr, ...] = at) -> Expr:
            return x(*at[:axis], p, *at[axis:])

        def before(a: Expr, b: Expr, key: Callable[[Expr], Expr] = key) -> Expr:
            return numbers_first(key(a), key(b), x.dtype, largest)

        if isinstance(k, int) and isinstance(extent, int) and k * HEAP_FACTOR <= extent:
            select(code, order, spare, k, extent, before)
        else:
            with code.loop(extent) as n:
                code.store(order, n, n)
            merge_sort(code, order, spare, extent, before)
        with code.loop(k) as n:
            code.store(indices, code.load(order, n), row, n)
    code.finish()
    return _taken(c, code, indices, axis)


def _by_keys(c: LowerContext, axis: int, largest: bool) -> Lowered:
    """TopK of elements whose order 32 bits hold, rows shared out to threads."""
    x, shape = c.x(0), c.out_shape()
    extent, k = x.shape[axis], shape[axis]
    others = (*x.shape[:axis], *x.shape[axis + 1 :])
    rows = product(others)
    keys = c.k.stage(
        Tensor((*others, extent), "uint32", lambda *i: key_of(x(*i[:axis], i[-1], *i[axis:-1]), x.dtype, largest))
    )
    code = Code(c.k)
    indices = code.scratch((rows, k), "int64")
    workers = workers_for(code, product(x.shape))
    find = _few_best(code, workers, k) if isinstance(k, int) and k <= FEW else _many_best(code, workers, extent, k)
    if not (isinstance(k, int) and k == 0):
        with shared_rows(code, rows, workers) as (worker, row):
            at = unflatten(row, others)
            words = find(worker, extent, lambda p: word_of(keys(*at, p), p))
            with code.loop(k) as n:
                code.store(indices, position_of(code.load(words, worker, n)), row, n)
    code.finish()
    return _taken(c, code, indices, axis)


def _few_best(code: Code, workers: int, k: int) -> Find:
    """Keeps the best words in order, and lets each better one in at its place."""
    best = code.scratch((workers, k), WORD)

    def find(worker: Expr, extent: Expr, word: Callable[[Expr], Expr]) -> Any:
        with code.loop(k) as n:
            code.store(best, last_word(), worker, n)
        worst = code.cell(WORD, last_word())
        with code.loop(extent) as p:
            here = code.let(word(p))
            with code.when(here < worst.get()):
                hole = code.cell("int64", i64(k - 1))

                def before(hole: Cell = hole) -> Expr:
                    return code.load(best, worker, tirx.max(hole.get() - 1, i64(0)))

                with code.while_(tirx.And(hole.get() > 0, before() > here)):
                    code.store(best, before(), worker, hole.get())
                    hole.set(hole.get() - 1)
                code.store(best, here, worker, hole.get())
                worst.set(code.load(best, worker, k - 1))
        return best

    return find


def _many_best(code: Code, workers: int, extent: Expr, k: Expr) -> Find:
    """Collects words that may be among the best; of twice as many as wanted, sorted, the worse half is dropped."""
    static = isinstance(extent, int) and isinstance(k, int)
    most = max(min(2 * k, extent), 1) if static else tirx.max(tirx.min(i64(k) * 2, i64(extent)), i64(1))
    sorter = Sorter(code, workers, most)

    def find(worker: Expr, extent: Expr, word: Callable[[Expr], Expr]) -> Any:
        used = code.cell("int64", i64(0))
        limit = code.cell(WORD, last_word())
        with code.loop(extent) as p:
            here = code.let(word(p))
            with code.when(here < limit.get()):
                with code.when(tirx.EQ(used.get(), i64(most))):
                    sorter.sort(worker, most)
                    limit.set(code.load(sorter.words, worker, tirx.max(i64(k) - 1, i64(0))))
                    used.set(i64(k))
                code.store(sorter.words, here, worker, used.get())
                used.set(used.get() + 1)
        sorter.sort(worker, code.let(used.get()))
        return sorter.words

    return find


def _taken(c: LowerContext, code: Code, indices: Any, axis: int) -> Lowered:
    """Values and positions, these in ``indices`` by row."""
    x, shape = c.x(0), c.out_shape()
    others = (*x.shape[:axis], *x.shape[axis + 1 :])

    def index(*i: Expr) -> Expr:
        row: Expr = 0
        for p, d in zip((*i[:axis], *i[axis + 1 :]), others):
            row = row * d + p
        return code.load(indices, row, i[axis])

    positions = Tensor(shape, "int64", index)
    return [Tensor(shape, x.dtype, lambda *i: x(*i[:axis], index(*i), *i[axis + 1 :])), positions]


def _by_counting(c: LowerContext, axis: int, largest: bool) -> Lowered:
    """TopK as reductions: how many elements come before each one is its place, and each place's element the only one that has it.

    Quadratic in the number of elements, but done by as many threads as there are.
    """
    x, shape = c.x(0), c.out_shape()
    extent = x.shape[axis]
    counter = "int32" if isinstance(extent, int) and extent < 1 << 31 else "int64"

    def along(i: Index, p: Expr) -> Index:
        return (*i[:axis], p, *i[axis + 1 :])

    def precedes(i: Index, r: Index) -> Expr:
        here, other = let(x(*i)), let(x(*along(i, r[0])))
        ahead = numbers_first(other, here, x.dtype, largest)
        behind = numbers_first(here, other, x.dtype, largest)
        before = tirx.Or(ahead, tirx.And(exact.negation(behind), i64(r[0]) < i64(i[axis])))
        return tirx.Select(before, const(1, counter), const(0, counter))

    place = c.k.stage(c.k.reduce(x.shape, counter, (extent,), precedes))

    def chosen(i: Index, r: Index) -> Expr:
        has_it = tirx.EQ(i64(place(*along(i, r[0]))), i64(i[axis]))
        return tirx.Select(has_it, i64(r[0]), i64(0))

    positions = c.k.stage(c.k.reduce(shape, "int64", (extent,), chosen))
    values = Tensor(shape, x.dtype, lambda *i: x(*along(i, positions(*i))))
    return [values, positions]


class _Groups:
    """Unique: slices in sorted order, and for each group of equal ones its first position and its size."""

    def __init__(self, c: LowerContext) -> None:
        self.x = c.x(0)
        x = self.x
        self.flat = c.attr("axis") is None
        self.axis = 0 if self.flat else c.axis(int(c.attr("axis")), x.rank)
        self.total = product(x.shape) if self.flat else x.shape[self.axis]
        self.others = () if self.flat else (*x.shape[: self.axis], *x.shape[self.axis + 1 :])
        self.code = code = Code(c.k)
        size = (self.total,)
        self.order, spare = code.scratch(size, "int64"), code.scratch(size, "int64")
        self.first = code.scratch(size, "int64")
        self.counts = code.scratch(size, "int64")
        self.inverse = code.scratch(size, "int64")
        self.number = code.scratch((1,), "int64")
        with code.loop(self.total) as n:
            code.store(self.order, n, n)
        merge_sort(code, self.order, spare, self.total, self._before)
        count = code.cell("int64", i64(0))
        with code.loop(self.total) as n:
            here = code.let(code.load(self.order, n))
            fresh = code.cell("bool", tirx.const(True, "bool"))
            with code.when(n > 0):
                fresh.set(self._before(code.let(code.load(self.order, n - 1)), here))
            with code.when(fresh.get()):
                # the sort is stable: the first of a group is the one that occurs first
                code.store(self.first, here, count.get())
                code.store(self.counts, i64(0), count.get())
                count.set(count.get() + 1)
            group = code.let(count.get() - 1)
            code.store(self.counts, code.load(self.counts, group) + 1, group)
            code.store(self.inverse, group, here)
        code.store(self.number, count.get(), 0)
        if not int(c.attr("sorted", 1)):
            self._by_occurrence(spare)
        code.finish()

    def element(self, position: Expr, inner: tuple[Expr, ...]) -> Expr:
        """An element of the slice at ``position``."""
        if self.flat:
            return self.x(*unflatten(position, self.x.shape))
        return self.x(*inner[: self.axis], position, *inner[self.axis :])

    def _before(self, a: Expr, b: Expr) -> Expr:
        """Lexicographic order of slices."""
        if self.flat:
            return numbers_first(self.element(a, ()), self.element(b, ()), self.x.dtype, False)
        code = self.code
        verdict = code.cell("int32", tirx.const(0, "int32"))
        with code.nest(self.others) as i, code.when(tirx.EQ(verdict.get(), tirx.const(0, "int32"))):
            left, right = code.let(self.element(a, i)), code.let(self.element(b, i))
            with code.when(numbers_first(left, right, self.x.dtype, False)):
                verdict.set(tirx.const(-1, "int32"))
            with code.when(numbers_first(right, left, self.x.dtype, False)):
                verdict.set(tirx.const(1, "int32"))
        return tirx.LT(verdict.get(), tirx.const(0, "int32"))

    def _by_occurrence(self, spare: Any) -> None:
        """Renumber groups in the order in which they first occur."""
        code = self.code
        rank = code.scratch((self.total,), "int64")
        count = code.let(code.load(self.number, 0))
        with code.loop(count) as g:
            code.store(self.order, g, g)
        merge_sort(code, self.order, spare, count, lambda a, b: code.load(self.first, a) < code.load(self.first, b))
        with code.loop(count) as g:
            code.store(rank, g, code.load(self.order, g))
        for buffer in (self.first, self.counts):
            with code.loop(count) as g:
                code.store(spare, code.load(buffer, code.load(self.order, g)), g)
            with code.loop(count) as g:
                code.store(buffer, code.load(spare, g), g)
        with code.loop(self.total) as n:
            code.store(self.inverse, code.load(rank, code.load(self.inverse, n)), n)


@measures("Unique")
def _unique_count(c: LowerContext) -> Tensor:
    return result(_Groups(c).number, (1,), "int64")


@lowers("Unique")
def _unique(c: LowerContext) -> Lowered:
    groups = _Groups(c)
    axis, code = groups.axis, groups.code
    count = (c.out_shape()[axis],)

    def value(*i: Expr) -> Expr:
        return groups.element(code.load(groups.first, i[axis]), (*i[:axis], *i[axis + 1 :]))

    return [
        Tensor(c.out_shape(), groups.x.dtype, value),
        Tensor(count, "int64", lambda i: code.load(groups.first, i)),
        Tensor((groups.total,), "int64", lambda i: code.load(groups.inverse, i)),
        Tensor(count, "int64", lambda i: code.load(groups.counts, i)),
    ]

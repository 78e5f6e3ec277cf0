"""Cumulative sums and products.

Along the last axis, a sum waits for the one before it: several rows are summed side by side. Along another one, whole vectors of
the last axis are, and threads share these where there are few rows to share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.radix import workers_for
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.builder import reader
from graphopt.backends.tensors.imperative import Code
from graphopt.backends.tensors.index import i64, unflatten
from graphopt.backends.tensors.index import product as product_of
from graphopt.backends.tensors.loops import lane_kind, loop, seq
from graphopt.backends.tensors.math import is_float
from graphopt.backends.tensors.tensor import Expr, Scope, Tensor, as_expr

_ROWS = 8
"""Rows that are summed side by side: enough to hide how long an addition takes."""


@lowers("CumSum", "CumProd")
def _scan(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    axis = c.axis(int(c.need_const(1, f"the axis of {c.node.op}").reshape(-1)[0]), x.rank)
    scan = _Scan(
        c, x, dtype, axis, c.node.op == "CumProd", bool(c.attr("exclusive")), bool(c.attr("reverse")),
        c.k.workspace(x.shape, dtype),
    )  # fmt: skip
    if not any(isinstance(d, int) and d == 0 for d in x.shape):
        if c.k.schedule.spreads_work:
            scan.each_by_itself()
        elif axis == x.rank - 1:
            scan.side_by_side()
        else:
            scan.by_vectors()
    return reader(scan.buffer, x.shape, dtype)


@dataclass(frozen=True)
class _Scan:
    """Totals of ``x`` along ``axis`` into ``buffer``."""

    c: LowerContext
    x: Tensor
    dtype: str
    axis: int
    product: bool
    exclusive: bool
    reverse: bool
    buffer: Any

    def place(self, index: Sequence[Expr], step: Expr) -> list[Expr]:
        """The index of a step along the axis; the other positions are those of ``index``."""
        along = self.x.shape[self.axis] - 1 - step if self.reverse else step
        return [as_expr(along if a == self.axis else p) for a, p in enumerate(index)]

    def joined(self, total: Expr, value: Expr) -> Expr:
        """A total with one element more."""
        return total * value if self.product else total + value

    @property
    def nothing(self) -> Expr:
        """The total of no elements, as it is given out."""
        return const(1 if self.product else 0, self.dtype)

    def element(self, index: Sequence[Expr]) -> tuple[Scope, Expr]:
        """An element of ``x`` and what it is computed from."""
        with Scope() as scope:
            value = cast(self.x(*index), self.dtype)
        return scope, value

    def first(self, index: Sequence[Expr]) -> tuple[Scope, Any]:
        """What the first step stores."""
        here = self.place(index, 0)
        if self.exclusive:
            return Scope(), tirx.BufferStore(self.buffer, self.nothing, here)
        scope, value = self.element(here)
        return scope, tirx.BufferStore(self.buffer, value, here)

    def further(self, index: Sequence[Expr], step: Expr) -> tuple[Scope, Any]:
        """What the step after ``step`` stores: the total before it is read back."""
        here, before = self.place(index, step + 1), self.place(index, step)
        scope, value = self.element(before if self.exclusive else here)
        total = tirx.BufferLoad(self.buffer, before)
        return scope, tirx.BufferStore(self.buffer, self.joined(total, value), here)

    def each_by_itself(self) -> None:
        """A row for each of many threads."""
        x, extent = self.x, self.x.shape[self.axis]
        others = [tirx.Var(f"i{a}", "int64") for a in range(x.rank)]
        step = tirx.Var("step", "int64")
        head = _statements(*self.first(others))
        # an empty axis has no first element
        some = tirx.Var("some", "int64")
        guarded = head if isinstance(extent, int) else [loop(some, tirx.min(i64(extent), i64(1)), seq(head))]
        body = seq([*guarded, loop(step, extent - 1, seq(_statements(*self.further(others, step))))])
        along = [a for a in range(x.rank) if a != self.axis]
        self.c.k.raw(self.c.k.schedule.each([others[a] for a in along], [x.shape[a] for a in along], body))

    def side_by_side(self) -> None:
        """Several rows at once, each with its total in a register."""
        code, shape = Code(self.c.k), self.x.shape
        others = shape[:-1]
        rows = product_of(others)
        workers = workers_for(code, product_of(shape))
        together = max(min(_ROWS, -(-rows // workers)), 1) if isinstance(rows, int) else _ROWS
        blocks = rows // together if isinstance(rows, int) else tirx.floordiv(rows, i64(together))
        with code.loop(blocks, parallel=workers > 1) as block:
            self._rows(code, others, block * together, together)
        done = blocks * together
        with code.loop(rows - done) as row:
            self._rows(code, others, row + done, 1)
        code.finish()

    def _rows(self, code: Code, others: Sequence[Expr], first: Expr, count: int) -> None:
        """Emits the totals of a few rows."""
        totals = code.local(count, self.dtype, "total")
        # a sum that begins with -0 keeps the sign of what is added first
        negative = is_float(self.dtype) and not self.product and not self.exclusive
        begin = const(-0.0, self.dtype) if negative else self.nothing
        at = [tuple(code.let(p) for p in unflatten(first + r, others)) for r in range(count)]
        for r in range(count):
            code.store(totals, begin, r)
        with code.loop(self.x.shape[-1]) as step:
            for r in range(count):
                here = self.place((*at[r], 0), step)
                value = self.joined(code.load(totals, r), code.read(self.x, *here).astype(self.dtype))
                if self.exclusive:
                    code.add(tirx.BufferStore(self.buffer, code.load(totals, r), here))
                    code.store(totals, value, r)
                else:
                    code.store(totals, value, r)
                    code.add(tirx.BufferStore(self.buffer, code.load(totals, r), here))

    def by_vectors(self) -> None:
        """A step after the other, each for vectors of the last axis."""
        code, shape = Code(self.c.k), self.x.shape
        others, extent, last = [d for a, d in enumerate(shape[:-1]) if a != self.axis], shape[self.axis], shape[-1]
        lanes = self.c.k.caps.lanes(max(tirx.const(0, self.dtype).ty.dtype.itemsize, 1))
        workers = workers_for(code, product_of(shape))
        known = product_of(others)
        # rows are cut where there are too few for all threads
        parts = 1 if isinstance(known, int) and known >= 4 * workers else workers
        vectors = tirx.floordiv(i64(last) + (lanes - 1), i64(lanes))
        with code.loop(known * parts, parallel=workers > 1) as task:
            outer = list(unflatten(tirx.floordiv(task, i64(parts)), others))
            outer.insert(self.axis, 0)
            part = code.let(tirx.floormod(task, i64(parts)))
            start = code.let(tirx.floordiv(part * vectors, i64(parts)) * lanes)
            stop = code.let(tirx.min(tirx.floordiv((part + 1) * vectors, i64(parts)) * lanes, i64(last)))
            full = code.let(tirx.floordiv(stop - start, i64(lanes)))

            def row(body: Any) -> None:
                for count, begin, width in (
                    (full, start, lanes),
                    (stop - start - full * lanes, start + full * lanes, 1),
                ):
                    with code.loop(count) as number:
                        lane = tirx.Var(code.fresh("lane"), "int64")
                        scope, store = body((*outer, begin + number * width + lane))
                        code.add(loop(lane, width, seq(_statements(scope, store)), lane_kind(scope)))

            with code.loop(tirx.min(i64(extent), i64(1))):
                row(self.first)
            with code.loop(i64(extent) - 1) as step:
                row(lambda index: self.further(index, step))
        code.finish()


def _statements(scope: Scope, store: Any) -> list[Any]:
    return [*scope.statements(), store]

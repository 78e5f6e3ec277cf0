"""Cumulative sums and products: serial along their axis, parallel across the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.builder import reader
from graphopt.backends.tensors.loops import loop, seq
from graphopt.backends.tensors.tensor import Expr, Scope, as_expr, elementwise


@lowers("CumSum", "CumProd")
def _scan(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    axis = c.axis(int(c.need_const(1, f"the axis of {c.node.op}").reshape(-1)[0]), x.rank)
    product, exclusive, reverse = c.node.op == "CumProd", bool(c.attr("exclusive")), bool(c.attr("reverse"))
    buffer = c.k.workspace(x.shape, dtype)
    start = const(1 if product else 0, dtype)
    extent = x.shape[axis]

    def at(index: Sequence[Expr], step: Expr) -> list[Expr]:
        place = extent - 1 - step if reverse else step
        return [as_expr(place if a == axis else p) for a, p in enumerate(index)]

    def element(index: list[Expr]) -> tuple[list[Any], Expr]:
        with Scope() as scope:
            value = cast(x(*index), dtype)
        return scope.statements(), value

    def column(index: Sequence[Expr]) -> Any:
        first = at(index, 0)
        bindings, value = element(first)
        head = (
            [tirx.BufferStore(buffer, start, first)]
            if exclusive
            else [*bindings, tirx.BufferStore(buffer, value, first)]
        )
        step = tirx.Var("step", "int64")
        here, before = at(index, step + 1), at(index, step)
        bindings, value = element(before if exclusive else here)
        total = tirx.BufferLoad(buffer, before)
        body = [*bindings, tirx.BufferStore(buffer, total * value if product else total + value, here)]
        rest = loop(step, extent - 1, seq(body))
        # an empty axis has no first element
        one = tirx.const(1, "int64")
        guard = (
            [loop(tirx.Var("some", "int64"), tirx.min(as_expr(extent), one), seq(head))]
            if not isinstance(extent, int)
            else head
        )
        return seq([*guard, rest])

    if not any(isinstance(d, int) and d == 0 for d in x.shape):
        others = [tirx.Var(f"i{a}", "int64") for a in range(x.rank)]
        along = [a for a in range(x.rank) if a != axis]
        c.k.raw(c.k.schedule.each([others[a] for a in along], [x.shape[a] for a in along], column(others)))
    total = reader(buffer, x.shape, dtype)
    return total if dtype == dtype else elementwise(lambda v: cast(v, dtype), dtype, x.shape, total)

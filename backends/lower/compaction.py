"""Keeping the positions that meet a condition, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.imperative import Code
from graphopt.backends.tensors.index import i64, product, unflatten
from graphopt.backends.tensors.tensor import Expr, Index

SHARES = 1024
"""Parts of a long row that threads of a GPU compact side by side."""


def compact(
    code: Code, shape: Sequence[Expr], keeps: Callable[[Index], Expr], store: Callable[[Index, Expr], None]
) -> Any:
    """Emits ``store(index, number)`` for every index into ``shape`` that is kept, numbered from 0 in order.

    A GPU's threads first count what their shares keep, so that each knows the number of its first position.

    Args:
        code: what is written to; what it holds so far is finished.
        shape: the positions there are, row by row.
        keeps: whether a position is kept.
        store: emits what is to be done with one.

    Returns:
        A buffer with how many were kept.
    """
    code.finish()
    number = code.scratch((1,), "int64")
    if not code.builder.schedule.spreads_work:
        count = code.cell("int64", i64(0))
        with code.nest(shape) as i, code.when(keeps(i)):
            store(i, count.get())
            count.set(count.get() + 1)
        code.store(number, count.get(), 0)
        code.finish()
        return number
    total = product(shape)
    before = code.scratch((SHARES,), "int64")
    size = -(-total // SHARES) if isinstance(total, int) else tirx.floordiv(total + (SHARES - 1), i64(SHARES))

    with code.each((SHARES,)) as (part,):
        count = code.cell("int64", i64(0))
        with (
            code.loop(size) as step,
            code.when(part * size + step < i64(total)),
            code.when(keeps(unflatten(part * size + step, shape))),
        ):
            count.set(count.get() + 1)
        code.store(before, count.get(), part)
    code.finish()
    sum_ = code.cell("int64", i64(0))
    with code.loop(SHARES) as part:
        found = code.let(code.load(before, part))
        code.store(before, sum_.get(), part)
        sum_.set(sum_.get() + found)
    code.store(number, sum_.get(), 0)
    code.finish()
    with code.each((SHARES,)) as (part,):
        count = code.cell("int64", code.load(before, part))
        with code.loop(size) as step, code.when(part * size + step < i64(total)):
            index = unflatten(part * size + step, shape)
            with code.when(keeps(index)):
                store(index, count.get())
                count.set(count.get() + 1)
    code.finish()
    return number

"""Where the extreme elements are: ArgMax, ArgMin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.radix import workers_for
from graphopt.backends.lower.reduce import Axes, finished
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.imperative import Code, result
from graphopt.backends.tensors.index import i64, product, unflatten
from graphopt.backends.tensors.loops import lane_kind, loop, seq
from graphopt.backends.tensors.tensor import Expr, Index, Scope, Tensor, elementwise, let

_BLOCK = 1024
"""Most results that are looked for at once: extremes so far and their places stay in L1."""


@lowers("ArgMax", "ArgMin")
def _arg(c: LowerContext) -> Lowered:
    axes = Axes(c.x(0), (c.axis(int(c.attr("axis")), c.rank(0)),))
    where = arg_extreme(c, axes, c.node.op == "ArgMax", bool(c.attr("select_last_index")))
    found = elementwise(lambda v: v.astype("int64"), "int64", axes.kept, where)
    return finished(c, axes, found, c.out_shape())


def arg_extreme(c: LowerContext, axes: Axes, largest: bool, last: bool = False) -> Tensor:
    """Index along the one reduced axis of the extreme element: the first or last of equals, the first NaN if there is any."""
    x, extent, inner = axes.x, axes.extents[0], axes.x.shape[-1]
    dtype = "int32" if isinstance(extent, int) and extent < 1 << 31 else "int64"
    wide = not isinstance(inner, int) or inner >= c.k.caps.lanes(4)
    full = all(not isinstance(d, int) or d > 0 for d in x.shape)
    if wide and full and axes.axes[0] != x.rank - 1 and not c.k.schedule.spreads_work and x.dtype != "bool":
        return _by_blocks(c, axes, dtype, largest, last)
    best = c.k.stage(axes.reduce(c, lambda i: x(*i), x.dtype, "max" if largest else "min"))
    nowhere = const(-1, dtype) if last else tirx.max_value(dtype)

    def body(i: Index, r: Index) -> Expr:
        v = let(x(*axes.at(i, r)))
        hit = tirx.EQ(v, best(*i))
        if m.is_float(x.dtype):
            hit = tirx.Or(hit, m.is_nan(v))
        position = r[0] if isinstance(r[0], int) else r[0].astype(dtype)
        return tirx.Select(hit, const(position, dtype) if isinstance(position, int) else position, nowhere)

    return c.k.reduce(axes.kept, dtype, axes.extents, body, "max" if last else "min")


def _by_blocks(c: LowerContext, axes: Axes, dtype: str, largest: bool, last: bool) -> Tensor:
    """Extremes of neighbouring results and their places together, in one pass over memory that reads it in long runs.

    What one step writes the next one reads, and the other way round: of a choice that is written where one of both came from,
    LLVM makes a masked store, which takes some processors as long as all the rest.
    """
    code, x, axis = Code(c.k), axes.x, axes.axes[0]
    outer, inner, lanes = axes.kept[:-1], x.shape[-1], c.k.caps.lanes(4)
    found = code.scratch(axes.kept, dtype)
    workers = workers_for(code, product(x.shape))
    per_row = tirx.floordiv(i64(inner) + (_BLOCK - 1), i64(_BLOCK))
    some = tirx.min(i64(axes.extents[0]), i64(1))  # none is read where the axis turns out to be empty
    with code.loop(product(outer) * per_row * some, parallel=workers > 1) as task:
        at = [code.let(p) for p in unflatten(tirx.floordiv(task, per_row), outer)]
        part = code.let(tirx.floormod(task, per_row))
        first = code.let(tirx.floordiv(part * inner, per_row))
        count = code.let(tirx.floordiv((part + 1) * inner, per_row) - first)
        best, place = code.local(2 * _BLOCK, x.dtype, "best"), code.local(2 * _BLOCK, dtype, "place")

        def vectors(body: Callable[[Expr], Sequence[object]]) -> None:
            """Loops over the block: ``body(position in it)`` gives what is stored for one result."""
            full = code.let(tirx.floordiv(count, i64(lanes)))
            for number, begin, width in ((full, i64(0), lanes), (count - full * lanes, full * lanes, 1)):
                with code.loop(number) as n:
                    lane = tirx.Var(code.fresh("lane"), "int64")
                    with Scope() as scope:
                        stores = body(begin + n * width + lane)
                    code.add(loop(lane, width, seq([*scope.statements(), *stores]), lane_kind(scope)))

        def element(step: Expr, offset: Expr) -> Expr:
            index = [*at, first + offset]
            index[axis] = step
            return let(x(*index))

        def begin(offset: Expr) -> Sequence[object]:
            return [
                tirx.BufferStore(best, element(i64(0), offset), [offset]),
                tirx.BufferStore(place, const(0, dtype), [offset]),
            ]

        vectors(begin)
        with code.loop(i64(axes.extents[0]) - 1) as before:
            step = before + 1
            old, new = (code.let(tirx.bitwise_and(s, i64(1)) * _BLOCK) for s in (before, step))

            def compare(offset: Expr) -> Sequence[object]:
                value, so_far = element(step, offset), let(tirx.BufferLoad(best, [old + offset]))
                better = _comes_first(value, so_far, x.dtype, largest, last)
                here = tirx.Select(better, step.astype(dtype), tirx.BufferLoad(place, [old + offset]))
                return [
                    tirx.BufferStore(place, here, [new + offset]),
                    tirx.BufferStore(best, tirx.Select(better, value, so_far), [new + offset]),
                ]

            vectors(compare)
        end = code.let(tirx.bitwise_and(i64(axes.extents[0]) - 1, i64(1)) * _BLOCK)
        vectors(lambda offset: [tirx.BufferStore(found, tirx.BufferLoad(place, [end + offset]), [*at, first + offset])])
    code.finish()
    return result(found, axes.kept, dtype)


def _comes_first(value: Expr, so_far: Expr, dtype: str, largest: bool, last: bool) -> Expr:
    """Whether a later value is the extreme of the two."""
    if largest:
        better = value >= so_far if last else value > so_far
    else:
        better = value <= so_far if last else value < so_far
    if not m.is_float(dtype):
        return better
    # a number is no better than what is none, as comparisons with that are false
    return tirx.Or(better, m.is_nan(value) if last else tirx.And(m.is_nan(value), tirx.Not(m.is_nan(so_far))))

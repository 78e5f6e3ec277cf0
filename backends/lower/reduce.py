"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, elementwise, let
from graphopt.ops.reduction import reduced_axes
from graphopt.ops.registry import REDUCE
from graphopt.ops.table import ops_with


class Axes:
    """A reduction of some axes of a tensor, as index arithmetic.

    Attributes:
        kept: the operand's shape with 1 where reduced.
        extents: extents of the reduced axes.
    """

    def __init__(self, x: Tensor, axes: tuple[int, ...]) -> None:
        self.x = x
        self.axes = axes
        self.kept = tuple(1 if a in axes else d for a, d in enumerate(x.shape))
        self.extents = tuple(x.shape[a] for a in axes)

    def at(self, i: Index, r: Index) -> Index:
        """The operand's index for the index into ``kept`` and the reduced axes' indices."""
        out = list(i)
        for axis, p in zip(self.axes, r):
            out[axis] = p
        return tuple(out)

    def collapse(self, i: Index) -> Index:
        """The index into ``kept`` for an operand's index."""
        return tuple(0 if a in self.axes else p for a, p in enumerate(i))

    def reduce(self, c: LowerContext, fn: Callable[[Index], Expr], dtype: str, kind: str = "sum") -> Tensor:
        """Reduce ``fn(operand index)``; a tensor of shape ``kept``."""
        return c.k.reduce(self.kept, dtype, self.extents, lambda i, r: fn(self.at(i, r)), kind)

    def count(self, dtype: str) -> Expr:
        """How many elements each result is made of; for none, what makes a mean of floats NaN and one of integers 0."""
        total: Expr = 1
        for d in self.extents:
            total = total * d
        if isinstance(total, int) and total == 0:
            return const(float("nan") if m.is_float(dtype) else 1, dtype)
        return const(total, dtype) if isinstance(total, int) else cast(total, dtype)


def finished(c: LowerContext, axes: Axes, result: Tensor, shape: tuple[Expr, ...]) -> Tensor:
    """``result`` of shape ``kept`` in the output's shape, without the reduced axes if they are not kept."""
    if len(shape) == len(axes.kept):
        return result
    inner = len(axes.kept) - 1 in axes.axes
    # a reduced innermost axis is summed across lanes, in loops of its own
    source = c.k.stage(result) if inner else result
    where = [a for a in range(len(axes.kept)) if a not in axes.axes]

    def element(*i: Expr) -> Expr:
        full: list[Expr] = [0] * len(axes.kept)
        for a, p in zip(where, i):
            full[a] = p
        return source(*full)

    return Tensor(shape, result.dtype, element)


def _before(op: str, x: Expr) -> Expr:
    if op == "ReduceL1":
        return x if m.dtype_of(x).startswith("uint") else tirx.abs(x) if m.is_float(m.dtype_of(x)) else _int_abs(let(x))
    if op in ("ReduceL2", "ReduceSumSquare"):
        x = let(x)
        return x * x
    return x


def _int_abs(x: Expr) -> Expr:
    return tirx.max(x, const(0, m.dtype_of(x)) - x)


@lowers(*ops_with(REDUCE))
def _reduce(c: LowerContext) -> Lowered:
    op, dtype, x = c.node.op, c.out_dtype(), c.x(0)
    axes = Axes(x, reduced_axes(c))
    if dtype == "bool":
        return _reduce_bool(c, axes)
    floats = m.is_float(dtype)
    if op == "ReduceLogSumExp":
        return _log_sum_exp(c, axes)
    work = dtype
    if op in ("ReduceMax", "ReduceMin"):
        total = axes.reduce(c, lambda i: x(*i), dtype, "max" if op == "ReduceMax" else "min")
        return finished(c, axes, total, c.out_shape())
    if op in ("ReduceL2", "ReduceLogSum") and not floats:
        work = "float64"
    kind = "prod" if op == "ReduceProd" else "sum"
    total = axes.reduce(c, lambda i: _before(op, cast(x(*i), work)), work, kind)
    count = axes.count(work)

    def after(v: Expr) -> Expr:
        if op == "ReduceL2":
            v = tirx.sqrt(v)
        elif op == "ReduceLogSum":
            v = m.log(v)
        elif op == "ReduceMean":
            v = v / count if floats else _int_mean(v, count)
        return cast(v, dtype)

    return finished(c, axes, elementwise(after, dtype, axes.kept, total), c.out_shape())


def _int_mean(total: Expr, count: Expr) -> Expr:
    return tirx.truncdiv(total, tirx.max(count, const(1, m.dtype_of(count))))


def _reduce_bool(c: LowerContext, axes: Axes) -> Lowered:
    kind = {"ReduceMax": "or", "ReduceMin": "and"}.get(c.node.op)
    if kind is None:
        raise c.unsupported(f"{c.node.op} of bool", "cast to an integer type first")
    x = axes.x
    total = axes.reduce(c, lambda i: cast(x(*i), "uint8"), "uint8", "max" if kind == "or" else "min")
    found = elementwise(lambda v: tirx.NE(v, const(0, "uint8")), "bool", axes.kept, total)
    return finished(c, axes, found, c.out_shape())


def _log_sum_exp(c: LowerContext, axes: Axes) -> Lowered:
    x, dtype = axes.x, c.out_dtype()
    work = dtype if m.is_float(dtype) else "float64"
    top = c.k.stage(axes.reduce(c, lambda i: cast(x(*i), work), work, "max"))

    def base(v: Expr) -> Expr:
        # subtracting an infinite maximum would give NaN
        v = let(v)
        return tirx.Select(tirx.abs(v) < const(float("inf"), work), v, const(0.0, work))

    total = axes.reduce(c, lambda i: m.exp(cast(x(*i), work) - base(top(*axes.collapse(i)))), work)
    out = elementwise(lambda s, t: cast(m.log(s) + base(t), dtype), dtype, axes.kept, total, top)
    return finished(c, axes, out, c.out_shape())

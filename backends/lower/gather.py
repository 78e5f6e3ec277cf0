"""Operators that pick elements by index. Indices out of range are refused, and read the nearest element
where they are not checked (on GPUs): nothing outside is touched."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.bounds import check_indices
from graphopt.backends.lower.casts import convert
from graphopt.backends.lower.compaction import compact
from graphopt.backends.lower.registry import LowerContext, Lowered, lowers, measures
from graphopt.backends.tensors.imperative import Code, result
from graphopt.backends.tensors.index import i64, product, smallest, unflatten, wrapped
from graphopt.backends.tensors.tensor import Expr, Index, Tensor


@lowers("Gather")
def _gather(c: LowerContext) -> Lowered:
    x, index = c.x(0), c.x(1)
    axis = c.axis(int(c.attr("axis")), x.rank)
    check_indices(c, 1, c.shape(0)[axis])

    def element(*i: Expr) -> Expr:
        at = wrapped(index(*i[axis : axis + index.rank]), x.shape[axis])
        return x(*i[:axis], at, *i[axis + index.rank :])

    return Tensor(c.out_shape(), x.dtype, element)


@lowers("GatherElements")
def _gather_elements(c: LowerContext) -> Lowered:
    x, index = c.x(0), c.x(1)
    axis = c.axis(int(c.attr("axis")), x.rank)
    check_indices(c, 1, c.shape(0)[axis])
    return Tensor(c.out_shape(), x.dtype, lambda *i: x(*i[:axis], wrapped(index(*i), x.shape[axis]), *i[axis + 1 :]))


@lowers("GatherND")
def _gather_nd(c: LowerContext) -> Lowered:
    x, index = c.x(0), c.x(1)
    batch = int(c.attr("batch_dims") or 0)
    depth = index.shape[-1]
    if not isinstance(depth, int):
        raise c.unsupported("GatherND with index tuples of unknown length", "fix the shape of the indices")
    for n in range(depth):
        check_indices(c, 1, c.shape(0)[batch + n], n)

    def element(*i: Expr) -> Expr:
        lead, inner = i[: index.rank - 1], i[index.rank - 1 :]
        picked = [wrapped(index(*lead, n), x.shape[batch + n]) for n in range(depth)]
        return x(*lead[:batch], *picked, *inner)

    return Tensor(c.out_shape(), x.dtype, element)


@measures("Compress")
def _compress_count(c: LowerContext) -> Tensor:
    return result(_kept(c)[2], (1,), "int64")


@lowers("Compress")
def _compress(c: LowerContext) -> Lowered:
    x = c.x(0)
    code, positions, _ = _kept(c)
    flat = c.attr("axis") is None
    axis = 0 if flat else c.axis(int(c.attr("axis")), x.rank)

    def element(*i: Expr) -> Expr:
        at = code.load(positions, i[axis])
        return x(*unflatten(at, x.shape)) if flat else x(*i[:axis], at, *i[axis + 1 :])

    return Tensor(c.out_shape(), x.dtype, element)


def _kept(c: LowerContext) -> tuple[Code, Any, Any]:
    """Positions whose condition holds, and how many there are."""
    x, condition = c.x(0), c.x(1)
    limit = product(x.shape) if c.attr("axis") is None else x.shape[c.axis(int(c.attr("axis")), x.rank)]
    code = Code(c.k)
    positions = code.scratch((condition.shape[0],), "int64")
    total = smallest(condition.shape[0], limit)
    number = compact(code, (total,), lambda i: condition(*i), lambda i, count: code.store(positions, *i, count))
    return code, positions, number


@measures("NonZero")
def _nonzero_count(c: LowerContext) -> Tensor:
    x = c.x(0)
    return c.k.reduce((1,), "int64", x.shape, lambda _, i: tirx.Select(_truth(x, i), i64(1), i64(0)))


@lowers("NonZero")
def _nonzero(c: LowerContext) -> Lowered:
    x, shape = c.x(0), c.out_shape()
    code = Code(c.k)
    out = code.scratch(shape, "int64")

    def store(index: Index, number: Expr) -> None:
        for axis, p in enumerate(index):
            code.store(out, p, axis, number)

    compact(code, x.shape, lambda i: _truth(x, i), store)
    return result(out, shape, "int64")


def _truth(x: Tensor, i: tuple[Expr, ...]) -> Expr:
    value = x(*i)
    return convert(value, "bool")

"""Reductions over axes."""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext, ints
from graphopt.ops.registry import ONE_NEST, REDUCE, REDUCTION, register


def reduced_axes(c: InferContext) -> tuple[int, ...]:
    """Axes reduced by a Reduce* node, sorted; empty when it is a no-op."""
    rank = c.rank(0)
    axes = ints(c.need_const(1, "the axes of a reduction")) if c.has(1) else []
    if not axes:
        return () if c.attr("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted({c.axis(a, rank) for a in axes}))


def reduced_shape(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """Shape after reducing ``axes``."""
    out: list[Dim] = []
    for i, d in enumerate(shape):
        if i not in axes:
            out.append(d)
        elif keepdims:
            out.append(1)
    return tuple(out)


@register("ReduceLogSumExp", traits=(REDUCTION, REDUCE))
@register(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", traits=(REDUCTION, REDUCE, ONE_NEST),
)  # fmt: skip
def _reduce(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(0), reduced_shape(c.shape(0), reduced_axes(c), bool(c.attr("keepdims"))))]


@register("ArgMax", "ArgMin", traits=(REDUCTION,))
def _arg(c: InferContext) -> list[Type]:
    axis = c.axis(int(c.attr("axis")), c.rank(0))
    c.assume_not(c.shape(0)[axis], 0, f"the axis of {c.node.op} has elements")
    return [TensorType(DType.i64, reduced_shape(c.shape(0), (axis,), bool(c.attr("keepdims"))))]


@register("CumSum", "CumProd")
def _scan(c: InferContext) -> list[Type]:
    return [c.type(0)]

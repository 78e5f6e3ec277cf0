"""Operators whose output extent depends on the data, losses, and reinterpretation of bits."""

from __future__ import annotations

from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import Dim, product
from graphopt.ir.dtypes import DType
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ELEMENTWISE, PART, REDUCTION, register


@register("Unique")
def _unique(c: InferContext) -> list[Type]:
    x: list[Dim] = list(c.shape(0))
    count = c.graph.fresh_symbol("u", SymbolKind.measured)
    if c.attr("axis") is None:
        y: Shape = (count,)
        total = product(x)
    else:
        axis = c.axis(int(c.attr("axis")), len(x))
        total = x[axis]
        y = (*x[:axis], count, *x[axis + 1 :])
    index = TensorType(DType.i64, (count,))
    return [TensorType(c.dtype(0), y), index, TensorType(DType.i64, (total,)), index]


@register("Compress", traits=(PART,))
def _compress(c: InferContext) -> list[Type]:
    x = c.shape(0)
    count = c.graph.fresh_symbol("u", SymbolKind.measured)
    if c.attr("axis") is None:
        return [TensorType(c.dtype(0), (count,))]
    axis = c.axis(int(c.attr("axis")), len(x))
    return [TensorType(c.dtype(0), (*x[:axis], count, *x[axis + 1 :]))]


@register("BitCast", traits=(ELEMENTWISE,))
def _bit_cast(c: InferContext) -> list[Type]:
    to = DType.from_onnx(int(c.attr("to")))
    if to.bits != c.dtype(0).bits:
        raise c.invalid(f"BitCast from {c.dtype(0)} to {to} changes the size of an element")
    return [TensorType(to, c.shape(0))]


@register("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", traits=(REDUCTION,))
def _loss(c: InferContext) -> list[Type]:
    shape = c.shape(1) if (c.attr("reduction") or "mean") == "none" else ()
    return [TensorType(c.dtype(0), shape), c.type(0)]

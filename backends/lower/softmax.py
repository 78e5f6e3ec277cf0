"""Softmax and its relatives."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.arg_extreme import arg_extreme
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.reduce import Axes
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr, Tensor, elementwise


@lowers("Softmax", "LogSoftmax")
def _softmax(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    axes = Axes(x, (c.axis(int(c.attr("axis")), x.rank),))
    top = c.k.stage(axes.reduce(c, lambda i: cast(x(*i), dtype), dtype, "max"))
    shifted = elementwise(lambda v, t: cast(v, dtype) - t, dtype, x.shape, x, top)
    if c.node.op == "LogSoftmax":
        total = c.k.stage(axes.reduce(c, lambda i: m.exp_up_to_60(shifted(*i)), dtype))
        return elementwise(lambda v, s: cast(v - m.log(s), dtype), dtype, x.shape, shifted, total)
    power = c.k.stage(elementwise(m.exp_up_to_60, dtype, x.shape, shifted))
    total = c.k.stage(axes.reduce(c, lambda i: power(*i), dtype))
    return elementwise(lambda v, s: cast(v / s, dtype), dtype, x.shape, power, total)


@lowers("Hardmax")
def _hardmax(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    axis = c.axis(int(c.attr("axis")), x.rank)
    axes = Axes(x, (axis,))
    where = c.k.stage(arg_extreme(c, axes, largest=True))

    def element(*i: Expr) -> Expr:
        here = i[axis] if not isinstance(i[axis], int) else const(i[axis], "int64")
        chosen = tirx.EQ(here, where(*axes.collapse(i)).astype("int64"))
        return tirx.Select(chosen, const(1, dtype), const(0, dtype))

    return Tensor(x.shape, dtype, element)

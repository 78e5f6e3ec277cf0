"""Element-wise operators."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.common.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.common.tensor import Expr, Tensor, elementwise


def unary(op: str, fn: Callable[[Expr], Expr]) -> None:
    """Register ``out[i] = fn(x[i])`` where the result has the operand's dtype."""

    @lowers(op)
    def lower(c: LowerContext) -> Lowered:
        return elementwise(fn, c.out_dtype(), c.out_shape(), c.x(0))


def zero(x: Expr) -> Expr:
    """0 of the expression's dtype."""
    return tirx.const(0, str(x.ty.dtype))


def one(x: Expr) -> Expr:
    """1 of the expression's dtype."""
    return tirx.const(1, str(x.ty.dtype))


unary("Relu", lambda x: tirx.max(x, zero(x)))
unary("Exp", tirx.exp)
unary("Sqrt", tirx.sqrt)
unary("Identity", lambda x: x)
unary("Dropout", lambda x: x)
unary("Neg", lambda x: zero(x) - x)
unary("Sigmoid", lambda x: one(x) / (one(x) + tirx.exp(zero(x) - x)))


def binary(op: str, fn: Callable[[Expr, Expr], Expr]) -> None:
    """Register ``out[i] = fn(a[i], b[i])`` with broadcasting."""

    @lowers(op)
    def lower(c: LowerContext) -> Lowered:
        return elementwise(fn, c.out_dtype(), c.out_shape(), c.x(0), c.x(1))


binary("Add", lambda a, b: a + b)
binary("Sub", lambda a, b: a - b)
binary("Mul", lambda a, b: a * b)


@lowers("BatchNormalization")
def _batch_norm(c: LowerContext) -> Lowered:
    if c.attr("training_mode"):
        raise c.unsupported("BatchNormalization in training mode", "export the model for inference")
    x, scale, shift, mean, var = c.operands
    eps = float(c.attr("epsilon"))

    def element(*i: Expr) -> Expr:
        ch = i[1]
        factor = scale(ch) / tirx.sqrt(var(ch) + const(eps, var.dtype))
        return ((x(*i) - mean(ch)) * factor + shift(ch)).astype(c.out_dtype())

    return Tensor(c.out_shape(), c.out_dtype(), element)

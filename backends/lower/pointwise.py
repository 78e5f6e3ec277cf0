"""How element-wise lowerings are registered."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.registry import LowerContext, Lowered, lowers
from graphopt.backends.tensors.math import is_float
from graphopt.backends.tensors.tensor import Expr, elementwise, let


def cast(x: Expr, dtype: str) -> Expr:
    """x as ``dtype``, unchanged if it has it."""
    return x if str(x.ty.dtype) == dtype else x.astype(dtype)


def zero(x: Expr) -> Expr:
    """0 of the expression's dtype."""
    return tirx.const(0, str(x.ty.dtype))


def one(x: Expr) -> Expr:
    """1 of the expression's dtype."""
    return tirx.const(1, str(x.ty.dtype))


def unary(op: str, fn: Callable[[Expr], Expr]) -> None:
    """Register ``out[i] = fn(x[i])`` where the result has the operand's dtype."""

    @lowers(op)
    def lower(c: LowerContext) -> Lowered:
        return elementwise(lambda x: fn(let(x)), c.out_dtype(), c.out_shape(), c.x(0))


def float_op(c: LowerContext, fn: Callable[..., Expr], count: int = 1) -> Lowered:
    """``out[i] = fn(x[i], ...)`` over the first ``count`` operands; refuses integers."""
    dtype = c.out_dtype()
    if not is_float(dtype):
        raise c.unsupported(f"{c.node.op} of {dtype}", "cast the operand to float32 first")
    return elementwise(
        lambda *x: cast(fn(*(let(cast(v, dtype)) for v in x)), dtype),
        dtype,
        c.out_shape(),
        *(c.x(i) for i in range(count)),
    )


def float_unary(op: str, fn: Callable[[Expr], Expr]) -> None:
    """Register a function of floats."""

    @lowers(op)
    def lower(c: LowerContext) -> Lowered:
        return float_op(c, fn)


def binary(op: str, fn: Callable[[Expr, Expr], Expr]) -> None:
    """Register ``out[i] = fn(a[i], b[i])`` with broadcasting."""

    @lowers(op)
    def lower(c: LowerContext) -> Lowered:
        return elementwise(lambda a, b: fn(let(a), let(b)), c.out_dtype(), c.out_shape(), c.x(0), c.x(1))

"""Comparison, logic, classification and selection."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import binary, unary
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import exact
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr, Tensor, elementwise, let


def compare(op: str, fn: Callable[[Expr, Expr], Expr]) -> None:
    """Register a comparison of equal dtypes."""

    @lowers(op)
    def lower(c: LowerContext) -> Lowered:
        return elementwise(lambda a, b: fn(let(a), let(b)), "bool", c.out_shape(), c.x(0), c.x(1))


compare("Less", exact.less)
compare("Greater", lambda a, b: exact.less(b, a))
compare("LessOrEqual", exact.at_most)
compare("GreaterOrEqual", lambda a, b: exact.at_most(b, a))
compare("Equal", exact.equal)
binary("And", tirx.And)
binary("Or", tirx.Or)
binary("Xor", lambda a, b: tirx.NE(a.astype("uint8"), b.astype("uint8")))
unary("Not", exact.negation)


@lowers("IsNaN")
def _is_nan(c: LowerContext) -> Lowered:
    return elementwise(lambda x: m.is_nan(let(x)), "bool", c.out_shape(), c.x(0))


@lowers("IsInf")
def _is_inf(c: LowerContext) -> Lowered:
    x = c.x(0)
    signs = [s for s, name in ((1, "detect_positive"), (-1, "detect_negative")) if c.attr(name)]

    def test(v: Expr) -> Expr:
        v = let(v)
        found = [exact.equal(v, const(s * float("inf"), x.dtype)) for s in signs]
        return found[0] if len(found) == 1 else tirx.Or(*found) if found else const(False, "bool")

    return elementwise(test, "bool", c.out_shape(), x)


@lowers("Where")
def _where(c: LowerContext) -> Lowered:
    return elementwise(tirx.Select, c.out_dtype(), c.out_shape(), *c.operands)


@lowers("Identity")
def _identity(c: LowerContext) -> Lowered:
    return c.x(0)


@lowers("Dropout")
def _dropout(c: LowerContext) -> Lowered:
    if c.has(2):
        training = c.need_const(2, "the training_mode of Dropout")
        ratio = c.const(1)
        drops = not c.has(1) or ratio is None or float(ratio.reshape(-1)[0]) != 0.0
        if bool(training.reshape(-1)[0]) and drops:
            raise c.unsupported("Dropout in training mode", "export the model for inference")
    shape = c.out_shape()
    return [c.x(0), Tensor(shape, "bool", lambda *_: const(True, "bool"))]

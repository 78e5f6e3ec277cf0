"""Activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import cast, float_op, float_unary, unary, zero
from graphopt.backends.lower.registry import LowerContext, Lowered, lowers
from graphopt.backends.tensors import exact
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.math import like
from graphopt.backends.tensors.tensor import Expr, Tensor, elementwise, let


def _relu(x: Expr) -> Expr:
    if dialect.current().nan_minmax and m.is_float(m.dtype_of(x)):
        return m.at_least(x, zero(x))
    return tirx.Select(exact.less(x, zero(x)), zero(x), x)  # NaN stays


unary("Relu", _relu)
float_unary("Sigmoid", m.sigmoid)
float_unary("Softplus", m.softplus)
float_unary("Softsign", lambda x: exact.divide(x, like(1.0, x) + tirx.abs(x)))
float_unary("Mish", m.mish)
float_unary("HardSwish", lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5))


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return m.at_most(m.at_least(x * like(alpha, x) + like(beta, x), like(0.0, x)), like(1.0, x))


def _negative_part(x: Expr, below: Expr) -> Expr:
    return tirx.Select(exact.less(x, zero(x)), below, x)


def _leaky(x: Expr, slope: float) -> Expr:
    below = exact.multiply(x, like(slope, x))
    if 0 < slope <= 1 and dialect.current().nan_minmax:
        return m.maximum(x, below)
    return _negative_part(x, below)


def _expm1(x: Expr, below_0: bool) -> Expr:
    return m.expm1_below_0(x) if below_0 else m.expm1(x)


def with_attributes(op: str, names: tuple[str, ...], fn: Callable[..., Expr]) -> None:
    """Register ``fn(x, *attributes)`` of floats."""

    @lowers(op)
    def lower(c: LowerContext) -> Lowered:
        values = [float(c.attr(n)) for n in names]
        if op == "Celu" and values[0] == 0:
            raise c.invalid("Celu with alpha=0 divides by zero")
        return float_op(c, lambda x: fn(x, *values))


with_attributes("LeakyRelu", ("alpha",), _leaky)
with_attributes("Elu", ("alpha",), lambda x, a: _negative_part(x, m.expm1_below_0(x) * like(a, x)))
with_attributes("Celu", ("alpha",), lambda x, a: _negative_part(x, _expm1(x / like(a, x), a > 0) * like(a, x)))
with_attributes(
    "Selu", ("alpha", "gamma"), lambda x, a, g: _negative_part(x, m.expm1_below_0(x) * like(a, x)) * like(g, x)
)
with_attributes("HardSigmoid", ("alpha", "beta"), _hard_sigmoid)
with_attributes("ThresholdedRelu", ("alpha",), lambda x, a: tirx.Select(x > like(a, x), x, zero(x)))
with_attributes("Swish", ("alpha",), lambda x, a: x * m.sigmoid(let(x * like(a, x))))


@lowers("Shrink")
def _shrink(c: LowerContext) -> Lowered:
    bias, edge = float(c.attr("bias")), float(c.attr("lambd"))
    dtype = c.out_dtype()
    # integers as ONNX's function body has it: computed after a cast to float32
    work = dtype if dtype == "float64" else "float32"

    def shrink(v: Expr) -> Expr:
        x = let(cast(v, work))
        low, high = x < like(-edge, x), x > like(edge, x)
        out = tirx.Select(low, x + like(bias, x), tirx.Select(high, x - like(bias, x), zero(x)))
        return cast(tirx.Select(m.is_nan(x), zero(x), out), dtype)

    return elementwise(shrink, dtype, c.out_shape(), c.x(0))


@lowers("Gelu")
def _gelu(c: LowerContext) -> Lowered:
    mode = c.attr("approximate")

    def approximate(x: Expr) -> Expr:
        # (1 + tanh(t)) / 2 is the logistic function of 2 t, which takes no other form near 0 and loses nothing far below it
        inner = let(like(math.sqrt(8 / math.pi), x) * (x + like(0.044715, x) * x * x * x))
        return x * m.sigmoid(inner)

    if mode not in ("none", "tanh"):
        raise c.invalid(f"Gelu with approximate={mode!r}")
    return float_op(c, m.gelu if mode == "none" else approximate)


@lowers("PRelu")
def _prelu(c: LowerContext) -> Lowered:
    def prelu(x: Expr, slope: Expr) -> Expr:
        x = let(x)
        return _negative_part(x, exact.multiply(x, slope))

    return elementwise(prelu, c.out_dtype(), c.out_shape(), c.x(0), c.x(1))


@lowers("Clip")
def _clip(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    low = c.x(1) if c.has(1) else None
    high = c.x(2) if c.has(2) else None

    def bounded(value: Expr, bound: Tensor | None, above: bool) -> Expr:
        if bound is None:
            return value
        edge = let(bound(*(0,) * bound.rank))
        if not m.is_float(dtype):
            return tirx.min(value, edge) if above else tirx.max(value, edge)
        value = let(value)
        number = exact.known(edge)
        if number is not None and not math.isnan(number) and dialect.current().nan_minmax:
            return m.at_most(value, edge) if above else m.at_least(value, edge)
        beyond = exact.less(edge, value) if above else exact.less(value, edge)
        return tirx.Select(beyond, edge, value)

    def element(*i: Expr) -> Expr:
        # the maximum first: where min > max the result is max
        return bounded(bounded(x(*i), low, above=False), high, above=True)

    return Tensor(c.out_shape(), dtype, element)

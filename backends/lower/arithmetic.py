"""Arithmetic: signs, rounding, powers, elementary functions, binary operators."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import binary, cast, float_unary, unary, zero
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import exact
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.power import power_float32
from graphopt.backends.tensors.tensor import Expr, elementwise, let

for _op, _name in {
    "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh", "Cos": "cos",
    "Cosh": "cosh", "Sin": "sin", "Sinh": "sinh", "Tan": "tan",
}.items():  # fmt: skip
    float_unary(_op, lambda x, name=_name: m.libm(name, x))  # type: ignore[misc]

float_unary("Exp", m.exp)
float_unary("Log", m.log)
float_unary("Tanh", m.tanh)
float_unary("Erf", m.erf)
float_unary("Sqrt", tirx.sqrt)
float_unary("Reciprocal", lambda x: exact.divide(const(1.0, m.dtype_of(x)), x))
float_unary("Ceil", tirx.ceil)
float_unary("Floor", tirx.floor)
float_unary("Round", tirx.round)  # half to even


def _abs(x: Expr) -> Expr:
    dtype = m.dtype_of(x)
    return x if dtype.startswith("uint") else tirx.abs(x) if m.is_float(dtype) else tirx.max(x, exact.negate(x))


def _sign(x: Expr) -> Expr:
    dtype = m.dtype_of(x)
    positive = tirx.Select(exact.less(zero(x), x), const(1, dtype), x if m.is_float(dtype) else zero(x))
    if dtype.startswith("uint"):
        return positive
    return tirx.Select(exact.less(x, zero(x)), const(-1, dtype), positive)


unary("Neg", exact.negate)
unary("Abs", _abs)
unary("Sign", _sign)
binary("Add", exact.add)
binary("Sub", exact.subtract)
binary("Mul", exact.multiply)


def int_divide(a: Expr, b: Expr) -> Expr:
    """Quotient truncated toward zero; no trap: x / 0 is 0 and the smallest number / -1 wraps, as in numpy."""
    dtype = m.dtype_of(a)
    divisor = exact.known(b)
    if divisor is not None:
        if divisor in (0, 1, -1):
            return zero(a) if divisor == 0 else a if divisor == 1 else exact.negate(a)
        return exact.hidden(tirx.truncdiv(exact.hidden(a), b))
    work = dtype if dtype in ("int64", "uint64", "uint32") else "int32"
    # hidden twice, because the comparisons below hide b once: what one of them excludes is not to be dropped from another
    left, hidden = cast(a, work), let(exact.hidden(exact.hidden(cast(b, work))))
    signed = not dtype.startswith("uint")
    unsafe = tirx.EQ(hidden, const(0, work))
    if signed:
        unsafe = tirx.Or(unsafe, tirx.EQ(hidden, const(-1, work)))
    quotient = cast(tirx.truncdiv(left, let(tirx.Select(unsafe, const(1, work), hidden))), dtype)
    if signed:
        quotient = tirx.Select(exact.equal(b, const(-1, dtype)), exact.negate(a), quotient)
    return tirx.Select(exact.equal(b, zero(b)), zero(a), quotient)


@lowers("Div")
def _div(c: LowerContext) -> Lowered:
    floats = m.is_float(c.out_dtype())

    def divide(a: Expr, b: Expr) -> Expr:
        return exact.divide(a, b) if floats else int_divide(let(a), let(b))

    return elementwise(divide, c.out_dtype(), c.out_shape(), c.x(0), c.x(1))


@lowers("Mod")
def _mod(c: LowerContext) -> Lowered:
    dtype = c.out_dtype()
    c_sign = bool(c.attr("fmod"))
    if m.is_float(dtype):
        return elementwise(lambda a, b: _float_mod(a, b, c_sign), dtype, c.out_shape(), c.x(0), c.x(1))

    def remainder(a: Expr, b: Expr) -> Expr:
        a, b = let(a), let(b)
        rest = let(exact.subtract(a, exact.multiply(int_divide(a, b), b)))
        rest = let(tirx.Select(exact.equal(b, zero(b)), zero(a), rest))  # as numpy
        if c_sign or dtype.startswith("uint"):
            return rest
        return tirx.Select(_opposite(rest, b), exact.add(rest, b), rest)

    return elementwise(remainder, dtype, c.out_shape(), c.x(0), c.x(1))


def _opposite(a: Expr, b: Expr) -> Expr:
    """Whether one is below zero and the other above."""
    below, above = exact.less(a, zero(a)), exact.less(zero(a), a)
    return tirx.Or(tirx.And(below, exact.less(zero(b), b)), tirx.And(above, exact.less(b, zero(b))))


def _float_mod(a: Expr, b: Expr, c_sign: bool) -> Expr:
    dtype = m.dtype_of(a)
    a, b = let(cast(a, dtype)), let(cast(b, dtype))
    rest = let(m.libm("fmod", a, b))
    if not c_sign:
        # the sign of the divisor, also for a zero
        nothing = tirx.Select(exact.less(b, zero(b)), const(-0.0, dtype), zero(b))
        floored = tirx.Select(_opposite(rest, b), rest + b, rest)
        rest = tirx.Select(tirx.EQ(rest, zero(rest)), nothing, floored)
    return cast(rest, dtype)


@lowers("Pow")
def _pow(c: LowerContext) -> Lowered:
    base, exponent = c.x(0), c.x(1)
    dtype = base.dtype
    known = c.const(1)
    if m.is_float(dtype) and known is not None and known.size == 1:
        fixed = float(known.reshape(-1)[0])
        if fixed in (0.5, 1.0, 2.0, 3.0, -1.0):
            work = dtype
            return elementwise(
                lambda x, _: cast(_fixed_power(let(cast(x, work)), fixed), dtype), dtype, c.out_shape(), base, exponent
            )
    if not m.is_float(dtype) and not m.is_float(exponent.dtype):
        return elementwise(_int_power, dtype, c.out_shape(), base, exponent)
    # float64 holds every 32 bit integer, so that parity is not lost
    double = not (m.is_float(dtype) and exponent.dtype in ("float32", "int8", "uint8", "int16", "uint16"))
    work = "float64" if double or dtype == "float64" else "float32"

    # below 8 lanes the C library is as fast
    vector = work == "float32" and c.k.caps.lanes(4) >= 8
    raised = power_float32 if vector else m.power

    def power(x: Expr, y: Expr) -> Expr:
        out = raised(cast(x, work), cast(y, work))
        return cast(out, dtype) if m.is_float(dtype) else out.astype("int64").astype(dtype)

    return elementwise(power, dtype, c.out_shape(), base, exponent)


def _fixed_power(x: Expr, exponent: float) -> Expr:
    dtype = m.dtype_of(x)
    if exponent == 0.5:
        infinite = exact.equal(x, const(float("-inf"), dtype))  # pow(-inf, 0.5) is inf, pow(-0, 0.5) is 0
        return tirx.Select(
            infinite, const(float("inf"), dtype), tirx.Select(exact.equal(x, zero(x)), zero(x), tirx.sqrt(x))
        )
    if exponent == -1.0:
        return exact.divide(const(1.0, dtype), x)
    return {1.0: x, 2.0: x * x, 3.0: x * x * x}[exponent]


def _int_power(x: Expr, y: Expr) -> Expr:
    """Repeated squaring: exact modulo the width. Exponents of 64 and more keep their parity, all that matters for 0 and +-1."""
    dtype = m.dtype_of(x)
    x, y = let(x), let(exact.hidden(y.astype("int64")))

    def i64(v: int) -> Expr:
        return tirx.const(v, "int64")

    odd = let(tirx.NE(y & i64(1), i64(0)))
    result: Expr = const(1, dtype)
    square = x
    rest = let(tirx.min(y, i64(62) + (y & i64(1))))
    for bit in range(6):
        result = let(tirx.Select(tirx.NE(rest & i64(1 << bit), i64(0)), exact.multiply(result, square), result))
        square = let(exact.multiply(square, square))
    # negative exponents: the reciprocal truncated to an integer
    if not dtype.startswith("uint"):
        unit = tirx.Select(tirx.EQ(x, const(-1, dtype)), tirx.Select(odd, x, const(1, dtype)), zero(x))
    else:
        unit = zero(x)
    unit = tirx.Select(tirx.EQ(x, const(1, dtype)), x, unit)
    return tirx.Select(exact.less(y, i64(0)), unit, result)


@lowers("Max", "Min", "Sum", "Mean")
def _variadic(c: LowerContext) -> Lowered:
    dtype, op, count = c.out_dtype(), c.node.op, len(c.node.inputs)
    combine = {"Max": m.maximum, "Min": m.minimum}.get(op, exact.add)

    def fold(*values: Expr) -> Expr:
        total = cast(values[0], dtype)
        for v in values[1:]:
            v = cast(v, dtype)
            total = combine(total, v)
        return cast(exact.divide(total, const(count, dtype)) if op == "Mean" else total, dtype)

    return elementwise(fold, dtype, c.out_shape(), *c.operands)


@lowers("BitShift")
def _bit_shift(c: LowerContext) -> Lowered:
    dtype = c.out_dtype()
    signed = not dtype.startswith("uint")
    bits = int(dtype.removeprefix("u")[3:])
    left = c.attr("direction") == "LEFT"

    def shift(a: Expr, b: Expr) -> Expr:
        a, b = let(a), let(b)
        safe = b & const(bits - 1, dtype)
        moved = tirx.shift_left(a, safe) if left else tirx.shift_right(a, safe)
        inside = exact.less(b, const(bits, dtype))
        beyond = zero(a)
        if signed:
            inside = tirx.And(inside, exact.at_most(zero(b), b))
            if not left:
                beyond = tirx.Select(exact.less(a, zero(a)), const(-1, dtype), beyond)
        return tirx.Select(inside, moved, beyond)

    return elementwise(shift, dtype, c.out_shape(), c.x(0), c.x(1))


binary("BitwiseAnd", lambda a, b: a & b)
binary("BitwiseOr", lambda a, b: a | b)
binary("BitwiseXor", lambda a, b: a ^ b)
unary("BitwiseNot", lambda x: tirx.bitwise_not(x))

"""x**y of float32 as arithmetic that vectorises: 2**(y log2 |x|) in float64, rounded once, then signs and special values.

Measured error 0.53 units in the last place, subnormal results included; special values as in C (ISO C, F.10.4.4).
float64 has twice the bits that the product with the exponent needs, so that no tricks with pairs of float32 are called for.
"""

from __future__ import annotations

import math

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.math import at_least, at_most, like, polynomial, reinterpret
from graphopt.backends.tensors.opaque import opaque
from graphopt.backends.tensors.tensor import Expr, let

_ROUNDER = 6755399441055744.0
"""1.5 * 2**52: adding it to a float64 leaves the rounded integer in the low bits."""


def power_float32(x: Expr, y: Expr) -> Expr:
    """x**y, both float32."""
    x, y = let(x), let(y)
    exponent = let(at_most(at_least(y, like(-1e30, y)), like(1e30, y)).astype("float64"))
    product = let(exponent * _log2(let(tirx.abs(x))))
    magnitude = let(_exp2(let(at_most(at_least(product, like(-200.0, product)), like(200.0, product)))))

    # whole exponents, odd ones; from 2**50 on all are even
    small = let(at_most(at_least(exponent, like(-(2.0**50), exponent)), like(2.0**50, exponent)))
    moved = let(opaque(small + like(_ROUNDER, small)))
    whole = tirx.EQ(moved - like(_ROUNDER, moved), small)
    odd = tirx.shift_left(reinterpret("int64", moved), tirx.const(63, "int64"))
    # of a number below zero or -0 to an odd power the sign stays; others have no real power but with a whole exponent
    bits = let(reinterpret("int32", x))
    negative = bits < tirx.const(0, "int32")
    signed = let(tirx.reinterpret("float64", reinterpret("int64", magnitude) | odd))
    signed = tirx.Select(tirx.And(whole, negative), signed, magnitude)
    result = let(signed.astype("float32"))
    impossible = tirx.And(tirx.And(x < like(0.0, x), x > like(-math.inf, x)), tirx.Not(whole))
    result = let(tirx.Select(impossible, like(math.nan, x), result))
    one = tirx.Or(tirx.EQ(y, like(0.0, y)), tirx.EQ(x, like(1.0, x)))
    return tirx.Select(one, like(1.0, x), result)


def _log2(x: Expr) -> Expr:
    """log2 of a float32 that is not negative, as float64: 2**-37 relative."""

    def i32(v: int) -> Expr:
        return tirx.const(v, "int32")

    tiny = x < like(1.17549435e-38, x)
    bits = reinterpret("int32", let(tirx.Select(tiny, x * like(8388608.0, x), x)))
    moved = let(bits - i32(0x3F3504F3))  # the bits of sqrt(1/2): the mantissa is in [sqrt(1/2), sqrt(2))
    mantissa = let(tirx.reinterpret("float32", (moved & i32(0x7FFFFF)) + i32(0x3F3504F3)).astype("float64"))
    whole = (tirx.shift_right(moved, i32(23)) - tirx.Select(tiny, i32(23), i32(0))).astype("float64")
    s = let((mantissa - like(1.0, mantissa)) / (mantissa + like(1.0, mantissa)))
    p = polynomial(let(s * s), (0.340761297046126, 0.4116710345222055, 0.577083613158754, 0.9617966731923323,
                                2.885390081790208))  # fmt: skip
    finite = let(p * s + whole)
    beyond = tirx.Select(tirx.EQ(x, like(0.0, x)), like(-math.inf, x), x).astype("float64")
    return tirx.Select(tirx.And(x > like(0.0, x), x < like(math.inf, x)), finite, beyond)


def _exp2(x: Expr) -> Expr:
    """2**x for -200 <= x <= 200 or NaN, float64: 2**-29 relative."""
    moved = let(opaque(x + like(_ROUNDER, x)))
    r = let(x - (moved - like(_ROUNDER, x)))
    p = let(polynomial(r, (0.00015345788946689805, 0.0013399957795914837, 0.009618489245927711, 0.055503287113878086,
                           0.2402264688605269, 0.6931472057673324, 1.0000000005550538)))  # fmt: skip
    # NaN comes through p whatever the scale
    i64 = "int64"
    scale = tirx.shift_left(reinterpret(i64, moved) + tirx.const(1023, i64), tirx.const(52, i64))
    return p * tirx.reinterpret("float64", scale)

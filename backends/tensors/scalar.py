"""What expressions of one element are made of: constants, polynomials, extremes that keep NaN, bits.

Where a processor has instructions of its own (`graphopt.backends.base.dialect.Dialect`), they are written for these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr, let, scalar_loops


def dtype_of(x: Expr) -> str:
    """TVM dtype of an expression."""
    return str(x.ty.dtype)


def like(value: float, x: Expr) -> Expr:
    """A constant of the expression's dtype."""
    return tirx.const(value, dtype_of(x))


def is_float(dtype: str) -> bool:
    """Whether a TVM dtype is floating point."""
    return dtype.startswith("float")


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's rule, highest power first; of pairs of terms, where each addition of a constant takes a copy of it."""
    if dialect.current().overwrites_addend and len(coefficients) > 3:
        low_first = [*reversed(coefficients)]
        *pairs, last = (low_first[i : i + 2] for i in range(0, len(low_first), 2))
        square, total = let(x * x), _line(x, last)
        for pair in reversed(pairs):
            total = total * square + _line(x, pair)
        return total
    total = like(coefficients[0], x)
    for c in coefficients[1:]:
        total = total * x + like(c, x)
    return total


def _line(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The constant term, and perhaps one times x."""
    constant, *slope = (like(c, x) for c in coefficients)
    return x * slope[0] + constant if slope else constant


def _nan_minmax(name: str, a: Expr, b: Expr) -> Expr | None:
    """LLVM's ``minimum`` or ``maximum`` of floats or vectors of them, where it is one instruction; -0 is less than 0."""
    dtype = dtype_of(a)
    if not dialect.current().nan_minmax:
        return None
    return tirx.call_llvm_pure_intrin(dtype, f"llvm.{name}", a, b)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger; NaN if either is (numpy.maximum)."""
    if not is_float(dtype_of(a)):
        return tirx.max(a, b)
    a, b = let(a), let(b)
    if dialect.has_functions():
        return dialect.call(dtype_of(a), "gopt_max", a, b)
    found = _nan_minmax("maximum", a, b)
    return tirx.Select(is_nan(a), a, tirx.Select(a > b, a, b)) if found is None else found


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller; NaN if either is (numpy.minimum)."""
    if not is_float(dtype_of(a)):
        return tirx.min(a, b)
    a, b = let(a), let(b)
    if dialect.has_functions():
        return dialect.call(dtype_of(a), "gopt_min", a, b)
    found = _nan_minmax("minimum", a, b)
    return tirx.Select(is_nan(a), a, tirx.Select(a < b, a, b)) if found is None else found


def at_least(x: Expr, low: Expr) -> Expr:
    """max(x, low) that keeps a NaN in x; ``low`` must not be NaN. One instruction."""
    x = let(x)
    found = _nan_minmax("maximum", x, low)
    return tirx.Select(low > x, low, x) if found is None else found


def at_most(x: Expr, high: Expr) -> Expr:
    """min(x, high) that keeps a NaN in x; ``high`` must not be NaN."""
    x = let(x)
    found = _nan_minmax("minimum", x, high)
    return tirx.Select(high < x, high, x) if found is None else found


BITS = {"float16": ("int16", 0x7FFF, 0x7C00), "float32": ("int32", 0x7FFFFFFF, 0x7F800000),
        "float64": ("int64", 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000)}  # fmt: skip


def reinterpret(dtype: str, x: Expr) -> Expr:
    """The bits of x as another type of the same size. TVM has no code for reinterpreting a constant 0."""
    if isinstance(x, (tirx.IntImm, tirx.FloatImm)) and dtype_of(x) != "bool":
        return tirx.const(np.array(x.value, dtype_of(x)).view(dtype).item(), dtype)
    return tirx.reinterpret(dtype, x)


def is_nan(x: Expr) -> Expr:
    """Whether x is NaN. Told from the bits: TVM folds ``x != x`` to false and can't vectorise its own isnan."""
    if dialect.has_functions():
        return dialect.call("bool", "gopt_is_nan", x)
    kind, magnitude, infinity = BITS[dtype_of(x)]
    return (reinterpret(kind, x) & tirx.const(magnitude, kind)) > tirx.const(infinity, kind)


def libm(name: str, *args: Expr) -> Expr:
    """A function of the C library, by its name for doubles; loops around it run one lane at a time."""
    dtype = dtype_of(args[0])
    scalar_loops()
    call = dialect.call if dialect.has_functions() else tirx.call_pure_extern
    if dtype == "float64":
        return call(dtype, name, *args)
    out = call("float32", name + "f", *(a.astype("float32") for a in args))
    return out if dtype == "float32" else out.astype(dtype)


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c of float32, rounded once."""
    if dialect.has_functions():
        return dialect.call("float32", "gopt_fma", a, b, c)
    return tirx.call_llvm_pure_intrin("float32", "llvm.fma", a, b, c)


def rounded_product(a: Expr, b: Expr) -> Expr:
    """a * b of floats, rounded before anything is added to it, whether or not the processor would fuse the two."""
    if dialect.has_functions():
        return dialect.call(dtype_of(a), "gopt_product", a, b)
    return tirx.call_llvm_pure_intrin(dtype_of(a), "llvm.arithmetic.fence", a * b)


def with_sign(magnitude: Expr, x: Expr) -> Expr:
    """The float32 ``magnitude``, not negative, with the sign of ``x``."""
    sign = reinterpret("int32", x) & tirx.const(-(2**31), "int32")
    return tirx.reinterpret("float32", reinterpret("int32", magnitude) | sign)

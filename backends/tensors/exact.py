"""Arithmetic and comparisons of the model's data, as IEEE 754 and two's complement have them.

TVM's simplifier was made for indices. Of floats it takes ``x - x`` for 0, ``x == x`` for true, ``0 * x`` for 0 and ``not (x < y)``
for ``y <= x``, which infinities, NaN and -0.0 make wrong, and it divides by multiplying with a rounded reciprocal. Of integers it
believes that sums don't wrap around, and tells LLVM so. And it fails, ending the process, on a comparison of unsigned integers that
can't be true. So every operator on elements goes through here: operands are hidden from the simplifier where it has a rule for
them, which costs no instruction, and what constants give is computed here, not by it. Indices and extents don't: they are what the
simplifier is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.opaque import opaque
from graphopt.backends.tensors.tensor import Expr, let

Combine = Callable[[Expr, Expr], Expr]
_BITS = {"float16": "int16", "float32": "int32", "float64": "int64"}


def _dtype(x: Expr) -> str:
    return str(x.ty.dtype)


def constant(value: Any, dtype: str) -> Expr:
    """A scalar constant. -0.0 is written as bits, because TVM takes it and 0.0 for one value; integers wrap around."""
    if dtype in _BITS:
        value = float(value)
        if value == 0.0 and math.copysign(1.0, value) < 0:
            if dialect.has_functions():
                return dialect.call(dtype, "gopt_negated", tirx.const(0.0, dtype))
            bits = _BITS[dtype]
            return tirx.reinterpret(dtype, tirx.const(int(np.iinfo(bits).min), bits))
        return tirx.const(value, dtype)
    if dtype == "bool":
        return tirx.const(bool(value), dtype)
    span = 1 << int(dtype.removeprefix("u")[3:])
    number = int(value) % span
    return tirx.const(number - span if not dtype.startswith("u") and number >= span // 2 else number, dtype)


def known(x: Expr) -> Any:
    """The number that an expression is, in numpy's type; None if it is no constant."""
    if isinstance(x, (tirx.IntImm, tirx.FloatImm)):
        return np.asarray(x.value).astype(_dtype(x))[()]
    return None


def hidden(x: Expr) -> Expr:
    """x, constants too, so that the simplifier knows nothing of it."""
    number = known(x)
    if number is None:
        return opaque(x)
    dtype = _dtype(x)
    if dialect.has_functions():
        return dialect.call_of(dtype, "gopt_value", x)
    if dtype in _BITS:
        return tirx.reinterpret(dtype, tirx.reinterpret(_BITS[dtype], x))
    if dtype in ("int32", "int64") and number == np.iinfo(dtype).min:
        # TVM believes that no other number equals this one
        return tirx.reinterpret(dtype, tirx.const(-int(number), f"u{dtype}"))
    return tirx.bitwise_or(x, tirx.const(0, dtype))


def _folded(fn: Callable[[Any, Any], Any], a: Expr, b: Expr) -> Expr | None:
    """What numpy makes of two constants."""
    x, y = known(a), known(b)
    if x is None or y is None:
        return None
    with np.errstate(all="ignore"):
        found = fn(x, y)
    return constant(found.item(), "bool" if found.dtype == bool else _dtype(a))


def _wrapping(fn: Combine, a: Expr, b: Expr) -> Expr:
    """Integers of less than 64 bits modulo their width. TVM tells LLVM that sums of 32 bits don't overflow; in 64 they don't."""
    dtype = _dtype(a)
    if dtype in ("int32", "uint32"):
        return hidden(fn(_wide(a), _wide(b)).astype(dtype))
    return hidden(fn(a, b))


def _wide(x: Expr) -> Expr:
    value = known(x)
    return hidden(x).astype("int64") if value is None else constant(int(value), "int64")


def _halves(x: Expr) -> tuple[Expr, Expr]:
    """The low and the high 32 bits of an integer of 64, as uint64."""
    value = known(x)
    if value is not None:
        number = int(value) % (1 << 64)
        return constant(number & _LOW, "uint64"), constant(number >> 32, "uint64")
    whole = hidden(x).astype("uint64")
    return whole & constant(_LOW, "uint64"), whole >> constant(32, "uint64")


def _joined(low: Expr, high: Expr, dtype: str) -> Expr:
    """The integer of two halves, of which the high one may have grown beyond 32 bits."""
    shift, mask = constant(32, "uint64"), constant(_LOW, "uint64")
    low = let(low)
    return hidden((((high + (low >> shift)) << shift) | (low & mask)).astype(dtype))


def _add_halves(a: Expr, b: Expr) -> Expr:
    (low_a, high_a), (low_b, high_b) = _halves(a), _halves(b)
    return _joined(low_a + low_b, high_a + high_b, _dtype(a))


def _subtract_halves(a: Expr, b: Expr) -> Expr:
    (low_a, high_a), (low_b, high_b) = _halves(a), _halves(b)
    # with 2**32 - 1 lent to the low halves and their carry taken back, nothing falls below zero
    spare = constant(1 << 32, "uint64")
    return _joined(low_a + (spare - low_b), high_a + (constant((1 << 32) - 1, "uint64") - high_b), _dtype(a))


def _multiply_halves(a: Expr, b: Expr) -> Expr:
    (low_a, high_a), (low_b, high_b) = _halves(a), _halves(b)
    mask = constant(_LOW, "uint64")
    return _joined(low_a * low_b, ((low_a * high_b) & mask) + ((high_a * low_b) & mask), _dtype(a))


_HALVED = {"int64", "uint64"}
_WRAPPING = {*_HALVED, "int32", "uint32"}
_LOW = (1 << 32) - 1


def _guarded(x: Expr) -> Expr:
    """A float operand that no rule applies to: 0 and 1 are what TVM knows neutral and absorbing elements by."""
    value = known(x)
    return x if value is not None and value != 0 else hidden(x)


def _integers(name: str, halves: Combine, fn: Combine, a: Expr, b: Expr) -> Expr:
    """By the device's function where it has one, by ``halves`` where there is no wider type to compute ``fn`` in."""
    if dialect.has_functions() and _dtype(a) in _WRAPPING:
        return dialect.call_of(_dtype(a), name, a, b)
    return halves(a, b) if _dtype(a) in _HALVED else _wrapping(fn, a, b)


def add(a: Expr, b: Expr) -> Expr:
    """a + b."""
    found = _folded(np.add, a, b)
    if found is not None:
        return found
    return (
        _guarded(a) + _guarded(b)
        if _dtype(a) in _BITS
        else _integers("gopt_add", _add_halves, lambda x, y: x + y, a, b)
    )


def subtract(a: Expr, b: Expr) -> Expr:
    """a - b."""
    found = _folded(np.subtract, a, b)
    if found is not None:
        return found
    return (
        hidden(a) - hidden(hidden(b))
        if _dtype(a) in _BITS
        else _integers("gopt_subtract", _subtract_halves, lambda x, y: x - y, a, b)
    )


def multiply(a: Expr, b: Expr) -> Expr:
    """a * b."""
    found = _folded(np.multiply, a, b)
    if found is not None:
        return found
    return (
        _guarded(a) * _guarded(b)
        if _dtype(a) in _BITS
        else _integers("gopt_multiply", _multiply_halves, lambda x, y: x * y, a, b)
    )


def divide(a: Expr, b: Expr) -> Expr:
    """a / b of floats, correctly rounded."""
    found = _folded(np.divide, a, b)
    if found is not None:
        return found
    divisor = known(b)
    if divisor is not None and _exact_reciprocal(float(divisor), _dtype(b)):
        return a * constant(1.0 / float(divisor), _dtype(a))
    return _guarded(a) / hidden(b)


def _exact_reciprocal(value: float, dtype: str) -> bool:
    """Whether dividing by a number is multiplying by another one: powers of two whose reciprocals are normal numbers."""
    if value == 0 or not math.isfinite(value) or abs(math.frexp(value)[0]) != 0.5:
        return False
    return bool(np.finfo(dtype).tiny <= abs(1.0 / value) <= np.finfo(dtype).max)


def negate(x: Expr) -> Expr:
    """-x."""
    dtype = _dtype(x)
    return multiply(x, constant(-1, dtype)) if dtype in _BITS else subtract(constant(0, dtype), x)


def less(a: Expr, b: Expr) -> Expr:
    """a < b."""
    found = _folded(np.less, a, b)
    if found is not None:
        return found
    dtype = _dtype(a)
    if dtype in _BITS:
        return a < hidden(b)
    if dtype.startswith("uint") and known(b) == 0:
        return constant(False, "bool")
    return hidden(a) < hidden(b)


def at_most(a: Expr, b: Expr) -> Expr:
    """a <= b."""
    found = _folded(np.less_equal, a, b)
    if found is not None:
        return found
    dtype = _dtype(a)
    if dtype in _BITS:
        # not written as <=, which TVM takes for the opposite of b < a; LLVM makes one comparison of it
        return tirx.Or(a < hidden(b), tirx.EQ(b, hidden(a)))
    if dtype.startswith("uint") and known(a) == 0:
        return constant(True, "bool")
    return hidden(a) <= hidden(b)


def equal(a: Expr, b: Expr) -> Expr:
    """a == b, of bools too."""
    if _dtype(a) == "bool":
        a, b = a.astype("uint8"), b.astype("uint8")
    found = _folded(np.equal, a, b)
    return tirx.EQ(hidden(a), hidden(hidden(b))) if found is None else found


def negation(x: Expr) -> Expr:
    """not x. As a comparison of numbers, because TVM turns the opposite of ``x < y`` into ``y <= x``."""
    value = known(x)
    return tirx.EQ(x.astype("uint8"), tirx.const(0, "uint8")) if value is None else constant(not value, "bool")

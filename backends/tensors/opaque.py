"""Values whose making is hidden from TVM's analyses, at no instruction.

TVM 0.27 fails on variables of vectors whose values it can see. Its pass over bindings asks for the interval of each one, and that
builds a constant of a vector's type where a comparison or connective is not a condition, compares a vector with the scalar that was
broadcast, and compares floats with integers where a factor is an interval (a Select or a maximum). It goes through arithmetic and
variables, but takes a call for a single unknown value.
"""

from __future__ import annotations

from typing import Any

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import tirx

Expr = Any

_BITS = {"float16": "int16", "float32": "int32", "float64": "int64"}


def opaque(x: Expr) -> Expr:
    """x, which must not be bool, hidden from TVM's simplifier and its other analyses. Costs no instruction.

    Besides what this file begins with: the simplifier takes float addition for associative. And inside
    ``Select(b == 0, 0, a / Select(b == 0, 1, b))`` it drops the inner Select, although both sides of the outer one are computed:
    the division traps.
    """
    if isinstance(x, (tirx.IntImm, tirx.FloatImm)):
        return x
    dtype = str(x.ty.dtype)
    if dialect.has_functions():
        return dialect.call_of(dtype, "gopt_value", x)
    if dtype not in _BITS:
        # not reinterpreted: TVM has no code for that where the simplifier finds that the integer is always 0
        return tirx.bitwise_or(x, tirx.const(0, dtype))
    return tirx.reinterpret(dtype, tirx.reinterpret(_BITS[dtype], x))

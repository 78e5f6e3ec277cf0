"""How reductions combine two values, and what they make of none."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.math import maximum, minimum
from graphopt.backends.tensors.tensor import Expr

REDUCERS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "sum": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "max": maximum,
    "min": minimum,
    "or": lambda a, b: tirx.Or(a, b),
    "and": lambda a, b: tirx.And(a, b),
}


def identity_of(kind: str, dtype: str) -> Expr:
    """Neutral element of a reducer: what reducing an empty set gives."""
    if kind in ("sum", "prod"):
        return tirx.const(0 if kind == "sum" else 1, dtype)
    if kind in ("or", "and"):
        return tirx.const(kind == "and", "bool")
    if dtype.startswith(("float", "bfloat")):
        return tirx.const(-math.inf if kind == "max" else math.inf, dtype)
    if dtype == "bool":
        return tirx.const(kind == "min", "bool")
    return tirx.min_value(dtype) if kind == "max" else tirx.max_value(dtype)

"""What is reduced of an element, how, and what becomes of the total, for every reduction that templates compute."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr, let


def _squared(x: Expr) -> Expr:
    x = let(x)
    return x * x


_BEFORE: dict[str, Callable[[Expr], Expr]] = {
    "ReduceSum": lambda x: x,
    "ReduceMean": lambda x: x,
    "ReduceL1": tirx.abs,
    "ReduceL2": _squared,
    "ReduceSumSquare": _squared,
    "ReduceMax": lambda x: x,
    "ReduceMin": lambda x: x,
}
REDUCTIONS = frozenset(_BEFORE)
"""Operators that the kernels compute."""


def before(op: str, x: Expr) -> Expr:
    """What of an element is reduced."""
    return _BEFORE[op](x)


def kind_of(op: str) -> str:
    """How it is reduced: a key of ``row.COMBINE``."""
    return {"ReduceMax": "max or nan", "ReduceMin": "min or nan"}.get(op, "sum")


def finished(op: str, total: Expr, length: tirx.Expr | int) -> Expr:
    """The result for ``length`` elements."""
    if op == "ReduceMean":
        dtype = str(total.ty.dtype)
        return total / (tirx.const(float(length), dtype) if isinstance(length, int) else length.astype(dtype))
    return tirx.sqrt(total) if op == "ReduceL2" else total

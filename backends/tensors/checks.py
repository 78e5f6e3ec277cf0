"""Checks in compiled code on values known at run time only. A broken one calls back to raise an ``InputError`` with the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.callbacks import ASK_FROM, REFUSE, RESERVE
from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.tensor import Expr


def refuse_if(broken: Expr, where: str, why: str, values: Sequence[tuple[str, Expr]]) -> Any:
    """The statement that ends the run where ``broken`` holds.

    Args:
        where: label of the node concerned.
        why: what does not hold.
        values: what was compared, by name; int64 expressions.
    """
    return tirx.IfThenElse(broken, tirx.Evaluate(refusal(where, why, values)), None)


def refusal(where: str, why: str, values: Sequence[tuple[str, Expr]]) -> Any:
    """The call that ends the run, with the arguments of `refuse_if`."""
    text = tvm.ir.expr.StringImm
    return tirx.call_packed(REFUSE, text(where), text(why), *_named(values))


def _named(values: Sequence[tuple[str, Expr]]) -> list[Any]:
    return [part for name, value in values for part in (tvm.ir.expr.StringImm(name), _wide(value))]


def _wide(value: Expr) -> Expr:
    if not isinstance(value, int) and str(value.ty.dtype).startswith("float"):
        return value.astype("float64")
    return i64(value)


def ask_for(extents: Sequence[Expr], itemsize: int, where: str, values: Sequence[tuple[str, Expr]] = ()) -> Any:
    """The statement that ends the run where a tensor of these extents (none of them negative) needs more memory than there is.

    Args:
        extents: as float64, so that their product can't overflow. Empty tensors count as if every extent were at least 1.
        itemsize: bytes of an element.
        where: label of the node concerned.
        values: what the extents follow from, by name; int64 expressions.
    """
    size = tirx.const(float(itemsize), "float64")
    for extent in extents:
        size = size * tirx.max(extent, tirx.const(1.0, "float64"))
    call = tirx.call_packed(RESERVE, tvm.ir.expr.StringImm(where), size, *_named(values))
    return tirx.IfThenElse(size >= tirx.const(float(ASK_FROM), "float64"), tirx.Evaluate(call), None)

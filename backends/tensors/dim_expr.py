"""Symbolic dimensions as TVM expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.atoms import Apply, Symbol
from graphopt.ir.dims import Dim


def dim_expr(dim: Dim, symbol: Callable[[str], Any], veil: Callable[[Expr], Expr] = lambda e: e) -> Expr:
    """A symbolic dimension as a TVM int64 expression.

    Args:
        symbol: the variable of a name.
        veil: what becomes of a function other than a quotient.
    """
    if isinstance(dim, int):
        return tirx.const(dim, "int64")
    total: Expr = None
    for monomial, coefficient in dim.terms:
        term: Expr = tirx.const(coefficient, "int64")
        for atom in monomial:
            value = symbol(atom.name) if isinstance(atom, Symbol) else _apply_expr(atom, symbol, veil)
            term = term * value
        total = term if total is None else total + term
    return total


def _apply_expr(atom: Apply, symbol: Callable[[str], Any], veil: Callable[[Expr], Expr]) -> Expr:
    args = [dim_expr(a, symbol, veil) for a in atom.args]
    return tirx.floordiv(*args) if atom.fn == "floordiv" else veil(_bounded(atom.fn, args))


def _bounded(fn: str, args: list[Expr]) -> Expr:
    """A function whose values TVM may find bounds for."""
    if fn == "mod":
        return tirx.floormod(*args)
    if fn == "max":
        return tirx.max(*args)
    if fn == "min":
        return tirx.min(*args)
    zero, one = tirx.const(0, "int64"), tirx.const(1, "int64")
    if fn == "eq":
        return tirx.Select(tirx.EQ(args[0], args[1]), one, zero)
    if fn == "lt":
        return tirx.Select(tirx.LT(args[0], args[1]), one, zero)
    return tirx.Select(tirx.NE(args[0], zero), args[1], args[2])

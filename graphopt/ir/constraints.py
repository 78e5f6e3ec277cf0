"""Constraints on dimensions are pairs that must be equal; an inequality is a comparison that must equal 0."""

from __future__ import annotations

from graphopt.ir.broadcast import fitted, function_of
from graphopt.ir.dims import Dim


def sides(left: Dim, right: Dim) -> tuple[Dim, Dim]:
    """The dimensions of the model that a constraint is about: both sides, or what is compared or broadcast in them."""
    return fitted(left, right) or (comparison(left) if isinstance(right, int) else None) or (left, right)


def comparison(dim: Dim) -> tuple[Dim, Dim] | None:
    """What an undecided comparison (``a < b``, ``a == b``) or remainder (``a % b``) is about, None for anything else."""
    atom = function_of(dim)
    return (atom.args[0], atom.args[1]) if atom is not None and atom.fn in ("lt", "eq", "mod") else None


def as_equality(dim: Dim) -> tuple[Dim, Dim] | None:
    """The two sides when ``dim`` is the undecided comparison ``a == b``, else None."""
    atom = function_of(dim)
    return (atom.args[0], atom.args[1]) if atom is not None and atom.fn == "eq" else None


def described(left: Dim, right: Dim) -> str:
    """A constraint as it is read: ``H >= 3``, ``N != 0``, ``a == b``."""
    atom = function_of(left)
    if atom is not None and isinstance(right, int) and right in (0, 1) and atom.fn in ("lt", "eq"):
        signs = {("lt", 0): ">=", ("lt", 1): "<", ("eq", 0): "!=", ("eq", 1): "=="}
        return f"{atom.args[0]} {signs[atom.fn, right]} {atom.args[1]}"
    around = fitted(left, right)
    return f"{around[0]} fits {around[1]}" if around is not None else f"{left} == {right}"

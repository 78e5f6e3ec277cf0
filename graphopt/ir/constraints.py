"""Constraints on dimensions are pairs that must be equal; an inequality is a comparison that must equal 0."""

from __future__ import annotations

from graphopt.ir.dims import Apply, Dim, SymExpr


def comparison(dim: Dim) -> tuple[Dim, Dim] | None:
    """What an undecided comparison (``a < b``, ``a == b``) or remainder (``a % b``) is about, None for anything else."""
    if isinstance(dim, SymExpr) and len(dim.terms) == 1:
        (monomial, coefficient) = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], Apply):
            atom = monomial[0]
            return (atom.args[0], atom.args[1]) if atom.fn in ("lt", "eq", "mod") else None
    return None

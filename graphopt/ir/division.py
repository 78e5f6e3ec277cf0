"""Exact division of polynomials over atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir.atoms import Monomial

_MOST_TERMS = 64
"""Of a quotient by a sum. Dimensions of models have a few; what is written to take long isn't divided."""
Terms = Sequence[tuple[Monomial, int]]
"""Monomials and their coefficients, the leading one first: see `order`."""


def order(monomial: Monomial) -> tuple[int, list[Any]]:
    """Sorts monomials: the most atoms first, then by atoms. Products with the same monomial keep the order."""
    return -len(monomial), [atom.order for atom in monomial]


def product(a: Monomial, b: Monomial) -> Monomial:
    """The monomial of the atoms of both."""
    return tuple(sorted(a + b, key=lambda atom: atom.order))


def exact_quotient(a: Terms, b: Terms) -> dict[Monomial, int] | None:
    """``a / b`` where that is a polynomial, else None.

    The leading term of what is left of ``a`` is divided by that of ``b``, until nothing is left (long division; Cox, Little and
    O'Shea, Ideals, Varieties, and Algorithms, section 2.3).
    """
    lead = b[0]
    if len(b) == 1:
        quotients = [_divided(term, lead) for term in a]
        found = [term for term in quotients if term is not None]
        return dict(found) if len(found) == len(a) else None
    left, quotient = dict(a), dict[Monomial, int]()
    while left:
        first = min(left, key=order)
        term = _divided((first, left[first]), lead)
        if term is None or len(quotient) == _MOST_TERMS:
            return None
        quotient[term[0]] = term[1]
        for monomial, factor in b:
            place = product(monomial, term[0])
            rest = left.get(place, 0) - factor * term[1]
            if rest:
                left[place] = rest
            else:
                left.pop(place, None)
    return quotient


def _divided(term: tuple[Monomial, int], by: tuple[Monomial, int]) -> tuple[Monomial, int] | None:
    atoms = list(term[0])
    for atom in by[0]:
        if atom not in atoms:
            return None
        atoms.remove(atom)
    return None if term[1] % by[1] else (tuple(atoms), term[1] // by[1])

"""Constraints on dimensions are pairs that must be equal; an inequality is a comparison that must equal 0."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir.atoms import Symbol, SymbolKind
from graphopt.ir.broadcast import fitted, function_of
from graphopt.ir.dims import Dim, SymExpr, as_symbol, kinds_in
from graphopt.ir.intervals import Interval


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


def bounds_of(constraints: Iterable[tuple[Dim, Dim]]) -> dict[str, Interval]:
    """Between what extents of inputs lie if the constraints hold: those about one symbol, or a quotient of it.

    ``512 < n`` is 0 bounds ``n``, ``n // 8 < 2`` is 0 does, and so does ``n == min(n, 512)``, which adding a table of 512 positions
    to ``n`` tokens asks for.
    """
    found: dict[str, Interval] = {}
    excluded: list[tuple[str, int]] = []
    for left, right in constraints:
        for room in _never_negative(left, right):
            bound = _bound(room)
            if bound is not None:
                name, interval = bound
                found[name] = found.get(name, Interval(0)).both(interval)
        never = _never_equal(left, right)
        if never is not None:
            excluded.append(never)
    for name, number in sorted(excluded):
        known = found.get(name, Interval(0))
        if known.low == number:
            found[name] = Interval(number + 1, known.high)
    return found


def _never_negative(left: Dim, right: Dim) -> list[Dim]:
    """What is 0 at least if two dimensions are equal."""
    atom = function_of(left)
    if atom is not None and atom.fn == "lt" and right in (0, 1):
        a, b = atom.args
        return [b - a - 1] if right == 1 else [a - b]
    for one, other in ((left, right), (right, left)):
        atom = function_of(other)
        if atom is not None and atom.fn in ("min", "max") and one in atom.args:
            a, b = atom.args
            rest = b if a == one else a
            return [rest - one] if atom.fn == "min" else [one - rest]
    return []


def _never_equal(left: Dim, right: Dim) -> tuple[str, int] | None:
    """A symbol of an extent and a number that it is not."""
    atom = function_of(left)
    if atom is None or atom.fn != "eq" or right != 0:
        return None
    a, b = atom.args
    name = as_symbol(a)
    return (name, b) if name is not None and isinstance(b, int) and _of_inputs(a) else None


def _bound(room: Dim) -> tuple[str, Interval] | None:
    """The symbol that is bounded where ``room`` is never negative, if that is a multiple of it or of a quotient, and a number.

    ``(n + 80) // 160 - 3`` isn't negative from 400 on: convolutions that follow one another ask for data that are so long.
    """
    if not isinstance(room, SymExpr) or not _of_inputs(room):
        return None
    terms = dict(room.terms)
    constant = terms.pop((), 0)
    if len(terms) != 1:
        return None
    ((monomial, factor),) = terms.items()
    if len(monomial) != 1:
        return None
    (atom,) = monomial
    least = -(constant // factor) if factor > 0 else None
    most = None if factor > 0 else constant // -factor
    if isinstance(atom, Symbol):
        return atom.name, Interval(least, most)
    if atom.fn != "floordiv":
        return None
    whole, divisor = atom.args
    if not isinstance(divisor, int) or divisor < 1:
        return None
    if least is not None:
        return _bound(whole - least * divisor)
    assert most is not None
    return _bound((most + 1) * divisor - 1 - whole)


def _of_inputs(dim: Dim) -> bool:
    """Whether only extents of inputs occur: constraints on them are checked before anything runs."""
    return kinds_in(dim) <= {SymbolKind.named, SymbolKind.unnamed}

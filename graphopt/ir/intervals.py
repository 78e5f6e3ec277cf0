"""Bounds of dimensions, and what they decide: ``min(n, 512)`` is ``n`` where ``n`` is at most 512.

Interval arithmetic (Moore, "Interval Analysis", 1966) over the canonical sums of products that dimensions are; every occurrence
of a symbol is taken by itself, so that bounds hold but may be wider than necessary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.atoms import Apply, Atom, Symbol, SymbolKind
from graphopt.ir.dims import Dim, SymExpr, apply, nonnegative


@dataclass(frozen=True)
class Interval:
    """Whole numbers from ``low`` to ``high``, both included; None where there is no bound."""

    low: int | None = None
    high: int | None = None

    def __str__(self) -> str:
        """``1..512``, ``1..`` or ``..512``."""
        return f"{'' if self.low is None else self.low}..{'' if self.high is None else self.high}"

    def __contains__(self, number: int) -> bool:
        return (self.low is None or self.low <= number) and (self.high is None or number <= self.high)

    @property
    def only(self) -> int | None:
        """The number, if there is only one."""
        return self.low if self.low is not None and self.low == self.high else None

    def nearest(self, number: int) -> int:
        """The number, or the end that is nearest to it."""
        if self.low is not None and number < self.low:
            return self.low
        return self.high if self.high is not None and number > self.high else number

    def both(self, other: Interval) -> Interval:
        """What lies in both intervals; the bounds cross where nothing does."""
        lows = [b for b in (self.low, other.low) if b is not None]
        highs = [b for b in (self.high, other.high) if b is not None]
        return Interval(max(lows, default=None), min(highs, default=None))


_EXTENT = Interval(0)
_ANY = Interval()
Bounds = Mapping[str, Interval]


def interval(dim: Dim, bounds: Bounds) -> Interval:
    """Between what a dimension lies.

    Args:
        dim: the dimension.
        bounds: of symbols by name; extents of which nothing is known here are 0 or more.
    """
    if isinstance(dim, int):
        return Interval(dim, dim)
    total = Interval(0, 0)
    for monomial, factor in dim.terms:
        term = Interval(factor, factor)
        for atom in monomial:
            term = _product(term, _of_atom(atom, bounds))
        total = _sum(total, term)
    return total.both(_EXTENT) if nonnegative(dim) else total


def settled(dim: Dim, bounds: Bounds) -> Dim:
    """The dimension with every function decided that the bounds decide."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, factor in dim.terms:
        term: Dim = factor
        for atom in monomial:
            term = term * _settled_atom(atom, bounds)
        total = total + term
    only = interval(total, bounds).only
    return total if only is None else only


def _settled_atom(atom: Atom, bounds: Bounds) -> Dim:
    if isinstance(atom, Symbol):
        return SymExpr({(atom,): 1})
    args = tuple(settled(a, bounds) for a in atom.args)
    decided = _decided(atom.fn, args, bounds)
    return apply(atom.fn, *args) if decided is None else decided


def _decided(fn: str, args: tuple[Dim, ...], bounds: Bounds) -> Dim | None:
    """What a function comes to, None where the bounds don't tell."""
    if fn == "where":
        condition = interval(args[0], bounds)
        if 0 not in condition:
            return args[1]
        return args[2] if condition.only == 0 else None
    a, b = args
    room = interval(b - a, bounds)
    first_is_less = room.low is not None and room.low >= 0
    first_is_more = room.high is not None and room.high <= 0
    if fn == "min":
        return a if first_is_less else b if first_is_more else None
    if fn == "max":
        return b if first_is_less else a if first_is_more else None
    if fn == "lt":
        return 1 if room.low is not None and room.low > 0 else 0 if first_is_more else None
    if fn == "eq":
        return 0 if 0 not in room else 1 if room.only == 0 else None
    below = interval(a, bounds)
    if (
        below.low is not None and below.low >= 0 and room.low is not None and room.low > 0
    ):  # a quotient of a and more than a
        return 0 if fn == "floordiv" else a
    return None


def _of_atom(atom: Atom, bounds: Bounds) -> Interval:
    if isinstance(atom, Symbol):
        known = bounds.get(atom.name, _ANY)
        return known if atom.kind is SymbolKind.element else known.both(_EXTENT)
    return _of_function(atom, bounds)


def _of_function(atom: Apply, bounds: Bounds) -> Interval:
    parts = [interval(a, bounds) for a in atom.args]
    if atom.fn in ("lt", "eq"):
        return Interval(0, 1)
    if atom.fn == "where":
        return _hull(parts[1], parts[2])
    a, b = parts
    if atom.fn == "min":
        highs = [p.high for p in parts if p.high is not None]
        low = None if a.low is None or b.low is None else min(a.low, b.low)
        return Interval(low, min(highs, default=None))
    if atom.fn == "max":
        lows = [p.low for p in parts if p.low is not None]
        high = None if a.high is None or b.high is None else max(a.high, b.high)
        return Interval(max(lows, default=None), high)
    if b.low is None or b.low < 1:
        return _ANY
    if atom.fn == "mod":
        return Interval(0, None if b.high is None else b.high - 1)
    if b.only is not None:
        return Interval(None if a.low is None else a.low // b.only, None if a.high is None else a.high // b.only)
    return Interval(
        0 if a.low is not None and a.low >= 0 else None, a.high if a.high is not None and a.high >= 0 else None
    )


def _hull(a: Interval, b: Interval) -> Interval:
    return Interval(
        None if a.low is None or b.low is None else min(a.low, b.low),
        None if a.high is None or b.high is None else max(a.high, b.high),
    )


def _sum(a: Interval, b: Interval) -> Interval:
    return Interval(
        None if a.low is None or b.low is None else a.low + b.low,
        None if a.high is None or b.high is None else a.high + b.high,
    )


def _product(a: Interval, b: Interval) -> Interval:
    if (a.low, a.high) == (0, 0) or (b.low, b.high) == (0, 0):
        return Interval(0, 0)
    if None not in (a.low, a.high, b.low, b.high):
        ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high) if x is not None and y is not None]
        return Interval(min(ends), max(ends))
    if a.only is not None:
        a, b = b, a
    if b.only is not None:  # a factor turns an interval with one end around, or doesn't
        ends_of = [None if end is None else end * b.only for end in (a.low, a.high)]
        return Interval(*(ends_of if b.only > 0 else reversed(ends_of)))
    if a.low is not None and b.low is not None and a.low >= 0 and b.low >= 0:
        return Interval(a.low * b.low)
    return _ANY

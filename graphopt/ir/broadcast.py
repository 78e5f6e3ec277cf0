"""Broadcasting of symbolic dimensions, any of which may turn out to be 1 at run time.

Two dimensions fit if they are equal or one of them is 1. Where neither is known, the result is written as a selection,
``where(a == 1, b, a)``, and what must hold as an equality between two selections, so that both can be computed and checked
like any other dimension.
"""

from __future__ import annotations

from graphopt.ir.atoms import Apply
from graphopt.ir.dims import Dim, SymExpr, equal_int, where


def is_one(dim: Dim) -> Dim:
    """1 if the dimension is 1, 0 if it never is, symbolic when that turns out at run time."""
    atom = function_of(dim)
    if atom is not None and atom.fn in ("min", "max"):
        bound, rest = sorted(atom.args, key=lambda d: not isinstance(d, int))
        if isinstance(bound, int) and bound != 1:
            return is_one(rest) if (bound > 1) == (atom.fn == "min") else 0
    return equal_int(dim, 1)


def broadcast_dim(a: Dim, b: Dim) -> Dim:
    """The extent of two dimensions that fit."""
    if is_one(a) == 0 or is_one(b) == 0:
        return a if is_one(a) == 0 else b  # whatever is not 1 equals it
    of_a, of_b = _parts(a), _parts(b)
    if of_a >= of_b or of_b >= of_a:  # if one is 1, so is all that it was made of
        return a if of_a >= of_b else b
    first, second = sorted((a, b), key=lambda d: (str(d), b"" if isinstance(d, int) else d.digest))
    return where(is_one(first), second, first)


def _parts(dim: Dim) -> frozenset[Dim]:
    """The dimensions that a result of ``broadcast_dim`` was made of, 1 left out."""
    found = _selection(dim)
    if found is None:
        return frozenset() if dim == 1 else frozenset({dim})
    return _parts(found[0]) | _parts(found[1])


def _selection(dim: Dim) -> tuple[Dim, Dim] | None:
    """``(a, b)`` if the dimension is ``where(a == 1, b, a)``."""
    atom = function_of(dim)
    if atom is None or atom.fn != "where" or atom.args[0] != is_one(atom.args[2]):
        return None
    return atom.args[2], atom.args[1]


def never_stretched(dim: Dim, to: Dim) -> bool:
    """Whether a dimension that fits ``to`` is certainly as long, or is the integer 1."""
    return dim == to or isinstance(dim, int) or is_one(dim) in (0, is_one(to))


def fit(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Two dimensions that are equal exactly if ``a`` and ``b`` are equal or one of them is 1."""
    return where(is_one(a), b, a), where(is_one(b), a, b)


def fit_one_way(dim: Dim, to: Dim) -> tuple[Dim, Dim]:
    """Two dimensions that are equal exactly if ``dim`` is ``to`` or 1."""
    return where(is_one(dim), to, dim), to


def fitted(left: Dim, right: Dim) -> tuple[Dim, Dim] | None:
    """The dimensions that a result of ``fit`` or ``fit_one_way`` is about, None for another pair."""
    for a, b in filter(None, (_selection(left), _selection(right))):
        if (left, right) in (fit(a, b), fit(b, a), fit_one_way(a, b)):
            return a, b
    return None


def function_of(dim: Dim) -> Apply | None:
    """The function, if the dimension is nothing but one."""
    if isinstance(dim, SymExpr) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], Apply):
            return monomial[0]
    return None

"""Symbolic dimensions: integers, symbols and a canonical polynomial form over them.

A ``Dim`` is a Python int or a ``SymExpr``. Expressions are kept as sums of products with integer coefficients, so that
equal dimensions compare equal whichever way they were computed: ``(n + 1) * 2 - n == n + 2``. What is not polynomial
(floor division, modulo, min, max, comparisons, selection) is an opaque atom over canonical operands.

Symbols stand for any integer; dimensions are non-negative, contents of shape tensors may be negative.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from math import gcd
from typing import TypeAlias, Union

from graphopt.ir.atoms import FUNCTIONS, TEXT_LIMIT, Apply, Atom, Monomial, Symbol, SymbolKind, digest, hash_of, is_name
from graphopt.ir.division import exact_quotient, order
from graphopt.ir.division import product as monomial_product

Dim: TypeAlias = Union[int, "SymExpr"]


class SymExpr:
    """A canonical polynomial over atoms; immutable and hashable. Build it with ``symbol`` and the operators."""

    __slots__ = ("_digest", "_names", "_symbols", "_text", "depth", "size", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        items = [(m, c) for m, c in terms.items() if c]
        if len(items) > 1:
            items.sort(key=lambda mc: order(mc[0]))
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(items)
        self.size: int = sum(1 + sum(a.size for a in m) for m, _ in items)
        self.depth: int = max((a.depth for m, _ in items for a in m), default=0)
        self._digest: bytes | None = None
        self._symbols: frozenset[Symbol] | None = None
        self._names: frozenset[str] | None = None
        self._text: str | None = None

    # -- arithmetic ---------------------------------------------------------------------------------------------
    def __add__(self, other: Dim) -> Dim:
        out = dict(self.terms)
        for m, c in _terms(other):
            out[m] = out.get(m, 0) + c
        return _normal(out)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _normal({m: -c for m, c in self.terms})

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        out: dict[Monomial, int] = {}
        for m1, c1 in self.terms:
            for m2, c2 in _terms(other):
                m = monomial_product(m1, m2)
                out[m] = out.get(m, 0) + c1 * c2
        return _normal(out)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    # -- identity -----------------------------------------------------------------------------------------------
    @property
    def digest(self) -> bytes:
        """Tells expressions apart."""
        if self._digest is None:
            parts = (p for m, c in self.terms for p in (b"%d" % c, *(a.digest for a in m), b""))
            self._digest = digest("sum", *parts)
        return self._digest

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, SymExpr) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash_of(self.digest)

    def __bool__(self) -> bool:
        raise TypeError(f"symbolic dimension {self} has no truth value; compare it with dims.equal or dims.known")

    def __repr__(self) -> str:
        return f"SymExpr({self})"

    def __str__(self) -> str:
        if self._text is None:
            self._text = self._written() if self.size <= TEXT_LIMIT else f"(a sum of {len(self.terms)} terms)"
        return self._text

    def _written(self) -> str:
        parts: list[str] = []
        for m, c in self.terms:
            alone = len(m) == 1 and abs(c) == 1 and len(self.terms) == 1 and c > 0
            body = "*".join(str(a) if alone or is_name(a) else f"({a})" for a in m)
            text = str(abs(c)) if not m else (body if abs(c) == 1 else f"{abs(c)}*{body}")
            parts.append(("-" if c < 0 else "+") + text)
        joined = " ".join(f"{p[0]} {p[1:]}" for p in parts)
        return joined[2:] if joined.startswith("+") else "-" + joined[2:]

    # -- queries ------------------------------------------------------------------------------------------------
    @property
    def is_name(self) -> bool:
        """Whether the text needs no parentheses as an operand."""
        atom = _single_atom(self)
        return atom is not None and is_name(atom)

    @property
    def atoms(self) -> frozenset[Symbol]:
        """All symbols inside, also within functions."""
        if self._symbols is None:
            found: set[Symbol] = set()
            for m, _ in self.terms:
                for atom in m:
                    if isinstance(atom, Symbol):
                        found.add(atom)
                    else:
                        found.update(*(a.atoms for a in atom.args if isinstance(a, SymExpr)))
            self._symbols = frozenset(found)
        return self._symbols

    @property
    def name(self) -> str:
        """The name of a bare symbol (TypeError for anything else)."""
        name = as_symbol(self)
        if name is None:
            raise TypeError(f"{self} is no symbol")
        return name

    def symbols(self) -> frozenset[str]:
        """Names of all symbols inside, also within functions."""
        if self._names is None:
            self._names = frozenset(a.name for a in self.atoms)
        return self._names

    def subs(self, env: Mapping[str, Dim]) -> Dim:
        """The expression with symbols replaced; an int when nothing symbolic is left."""
        return self._subs(env, {})

    def _subs(self, env: Mapping[str, Dim], known: dict[Atom, Dim]) -> Dim:
        total: Dim = 0
        for m, c in self.terms:
            product: Dim = c
            for atom in m:
                if atom not in known:
                    if isinstance(atom, Symbol):
                        known[atom] = env.get(atom.name, SymExpr({(atom,): 1}))
                    else:
                        args = (a._subs(env, known) if isinstance(a, SymExpr) else a for a in atom.args)
                        known[atom] = apply(atom.fn, *args)
                product = product * known[atom]
            total = total + product
        return total


def symbol(name: str, kind: SymbolKind = SymbolKind.named) -> SymExpr:
    """The dimension called ``name``."""
    return SymExpr({(Symbol(name, kind),): 1})


def subs(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """``dim`` with symbols replaced by ``env``."""
    return dim.subs(env) if isinstance(dim, SymExpr) else dim


def symbols_of(*dims: Dim) -> frozenset[str]:
    """Names of all symbols in the dimensions."""
    return frozenset().union(*(d.symbols() for d in dims if isinstance(d, SymExpr)))


def as_symbol(dim: Dim) -> str | None:
    """The symbol's name when ``dim`` is a bare symbol, else None."""
    atom = _single_atom(dim) if isinstance(dim, SymExpr) else None
    return atom.name if isinstance(atom, Symbol) else None


def kind_of(dim: Dim) -> SymbolKind | None:
    """The symbol's kind when ``dim`` is a bare symbol, else None."""
    atom = _single_atom(dim) if isinstance(dim, SymExpr) else None
    return atom.kind if isinstance(atom, Symbol) else None


def kinds_in(*dims: Dim) -> frozenset[SymbolKind]:
    """The kinds of all symbols in the dimensions."""
    return frozenset(a.kind for d in dims if isinstance(d, SymExpr) for a in d.atoms)


def apply(fn: str, *args: Dim) -> Dim:
    """``FUNCTIONS[fn]`` of dimensions, simplified where it can be decided."""
    simplify = _SIMPLIFY.get(fn)
    return simplify(*args) if simplify else _opaque(fn, *args)


def floordiv(a: Dim, b: Dim) -> Dim:
    """``a // b`` rounding to minus infinity; multiples of an integer ``b`` are taken out of the division."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a == b:
        return 1
    if b == 1:
        return a
    if isinstance(b, int) and b > 0 and isinstance(a, SymExpr):
        whole = _normal({m: c // b for m, c in a.terms if c % b == 0})
        rest = _normal({m: c for m, c in a.terms if c % b})
        if isinstance(rest, int):
            return whole + rest // b
        if whole != 0:
            return whole + floordiv(rest, b)
        inner = _single_atom(a)
        if isinstance(inner, Apply) and inner.fn == "floordiv" and isinstance(inner.args[1], int) and inner.args[1] > 0:
            return floordiv(inner.args[0], inner.args[1] * b)
        merged = _merge_floordiv(a, b)
        if merged is not None:
            return merged
        constant = dict(a.terms).get((), 0)
        if not 0 <= constant < b:  # keep the remainder in range so that equal quotients look equal
            return constant // b + floordiv(a - constant + constant % b, b)
    if isinstance(b, SymExpr) and isinstance(a, SymExpr):
        exact = _divide_exactly(a, b)
        if exact is not None:
            return exact
    return _opaque("floordiv", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """``ceil(a / b)``, written as a floor division so that chains of both merge."""
    return floordiv(a + b - 1, b) if isinstance(b, int) and b > 0 else -floordiv(-a, b)


def mod(a: Dim, b: Dim) -> Dim:
    """``a % b`` with the sign of ``b``."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if isinstance(b, int) and isinstance(a, SymExpr):
        rest = _normal({m: c % b for m, c in a.terms})
        return rest % b if isinstance(rest, int) else _opaque("mod", rest, b)
    if a == b:
        return 0
    if isinstance(b, SymExpr) and isinstance(a, SymExpr) and _divide_exactly(a, b) is not None:
        return 0
    return _opaque("mod", a, b)


def dim_max(*args: Dim) -> Dim:
    """Maximum; decided when the difference is a known integer."""
    return _extreme("max", args, keep_first=lambda d: d >= 0)


def dim_min(*args: Dim) -> Dim:
    """Minimum; decided when the difference is a known integer."""
    return _extreme("min", args, keep_first=lambda d: d <= 0)


def equal_int(a: Dim, b: Dim) -> Dim:
    """1 where ``a == b``, 0 where not, symbolic when undecided."""
    diff = a - b
    if isinstance(diff, int):
        return int(diff == 0)
    return 0 if _never_zero(diff) else _opaque("eq", a, b)


def _never_zero(diff: SymExpr) -> bool:
    """Whether an expression has one sign, or whole numbers can't cancel its constant."""
    divisor = gcd(*(c for m, c in diff.terms if m))
    constant = dict(diff.terms).get((), 0)
    return bool(constant % divisor) or nonnegative(diff - 1) or nonnegative(-diff - 1)


def where(cond: Dim, a: Dim, b: Dim) -> Dim:
    """``a`` if cond is non-zero, else ``b``."""
    if isinstance(cond, int):
        return a if cond else b
    equal = Apply("eq", (a, b)), Apply("eq", (b, a))  # what is chosen is ``b`` either way
    return b if a == b or _single_atom(cond) in equal else _opaque("where", cond, a, b)


def nonnegative(dim: Dim) -> bool:
    """Whether the expression can't be negative: built from extents (not elements of tensors) with positive factors."""
    if isinstance(dim, int):
        return dim >= 0
    return all(c > 0 and all(_nonnegative_atom(a) for a in m) for m, c in dim.terms)


def _nonnegative_atom(atom: Atom) -> bool:
    if isinstance(atom, Symbol):
        return atom.kind is not SymbolKind.element
    if atom.fn in ("eq", "lt"):
        return True
    if atom.fn == "mod":
        return nonnegative(atom.args[1]) and atom.args[1] != 0
    if atom.fn == "max":
        return any(nonnegative(a) for a in atom.args)
    if atom.fn == "where":
        return all(nonnegative(a) for a in atom.args[1:])
    return all(nonnegative(a) for a in atom.args)


def product(dims: Iterable[Dim]) -> Dim:
    """Product of all, 1 for none."""
    start: Dim = 1
    return reduce(operator.mul, dims, start)


def known(dims: Iterable[Dim]) -> bool:
    """Whether every dimension is an integer."""
    return all(isinstance(d, int) for d in dims)


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, SymExpr) else (((), int(dim)),)


def _normal(terms: Mapping[Monomial, int]) -> Dim:
    terms = {m: c for m, c in terms.items() if c}
    if not terms:
        return 0
    if set(terms) == {()}:
        return terms[()]
    return SymExpr(terms)


def _opaque(fn: str, *args: Dim) -> Dim:
    if all(isinstance(a, int) for a in args):
        return int(FUNCTIONS[fn](*args))
    return SymExpr({(Apply(fn, tuple(args)),): 1})


def _single_atom(e: SymExpr) -> Atom | None:
    if len(e.terms) == 1 and e.terms[0][1] == 1 and len(e.terms[0][0]) == 1:
        return e.terms[0][0][0]
    return None


def _divide_exactly(a: SymExpr, b: SymExpr) -> Dim | None:
    """``a / b`` where that is a polynomial, else None."""
    found = exact_quotient(a.terms, b.terms)
    return None if found is None else _normal(found)


def _merge_floordiv(a: SymExpr, b: int) -> Dim | None:
    """``(x // c + k) // b == (x + k*c) // (b*c)`` for integers b, c > 0: chains of strided layers become one
    division."""
    terms = dict(a.terms)
    k = terms.pop((), 0)
    if len(terms) != 1:
        return None
    ((monomial, coefficient),) = terms.items()
    if coefficient != 1 or len(monomial) != 1 or not isinstance(monomial[0], Apply) or monomial[0].fn != "floordiv":
        return None
    x, c = monomial[0].args
    return floordiv(x + k * c, b * c) if isinstance(c, int) and c > 0 else None


def _extreme(fn: str, args: tuple[Dim, ...], keep_first: Callable[[int], bool]) -> Dim:
    out = args[0]
    for arg in args[1:]:
        diff = out - arg
        if isinstance(diff, int):
            out = out if keep_first(diff) else arg
        else:
            out = _opaque(fn, out, arg)
    return out


_SIMPLIFY: dict[str, Callable[..., Dim]] = {
    "floordiv": floordiv,
    "mod": mod,
    "max": dim_max,
    "min": dim_min,
    "where": where,
    "eq": equal_int,
}

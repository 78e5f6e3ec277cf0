"""Dimensions as statements of a kernel, in arithmetic that can't trap and, where it matters, can't overflow unseen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from graphopt.backends.base.dim_names import variable_name
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.checks import refuse_if
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.tensor import Expr
from graphopt.errors import UnsupportedOpError
from graphopt.ir.atoms import Apply, Symbol
from graphopt.ir.dims import Dim, as_symbol, symbol, symbols_of
from graphopt.ir.types import Shape

CELLS = 4096
"""Most intermediate results in the dimensions of one kernel."""
LONGEST = 60
"""Longest expression that a message quotes."""
SHOWN = 6
"""Most elements that a message quotes."""
LARGEST = 2**62
"""Results of checked arithmetic stay below this; nothing of such a size can be allocated."""


class Mode(Enum):
    """What happens when a sum or product doesn't fit.

    ``wraps``: as in the model's own integer arithmetic. ``refuses``: the run ends. ``saturates``: for operands of a selection,
    which may not be the one taken.
    """

    wraps = "wraps"
    refuses = "refuses"
    saturates = "saturates"


class DimWriter:
    """Writes the statements that evaluate dimensions.

    Every intermediate result goes to memory: TVM's simplifier takes exponential time on nested selections.

    Attributes:
        symbols: variables of the symbols read so far.
        statements: what was written.
        cells: the memory of intermediate results, to be allocated ahead of ``statements``.
    """

    def __init__(self, where: str, titles: Mapping[str, str], cells: int = CELLS) -> None:
        self.symbols: dict[str, Any] = {}
        self.statements: list[Any] = []
        self.where = where
        self.titles = titles
        self.cells = tirx.decl_buffer([i64(cells)], "int64", "cells")
        self._count, self._most = 0, cells
        self._known: dict[tuple[Dim, Mode], Expr] = {}
        self._applied: dict[tuple[Apply, Mode], Expr] = {}

    def value(self, dim: Dim, mode: Mode) -> Expr:
        """The value of a dimension, after the statements written so far."""
        if isinstance(dim, int):
            return i64(max(min(dim, 2**63 - 1), -(2**63)))
        if (dim, mode) not in self._known:
            self._known[dim, mode] = self._polynomial(dim, mode)
        return self._known[dim, mode]

    def size(self, dim: Dim) -> Expr:
        """An extent (not negative) as a float64, which products of extents can't overflow."""
        if isinstance(dim, int) or not all(c > 0 and all(isinstance(a, Symbol) for a in m) for m, c in dim.terms):
            return self.value(dim, Mode.refuses).astype("float64")
        total = tirx.const(0.0, "float64")
        for monomial, coefficient in dim.terms:
            term = tirx.const(float(coefficient), "float64")
            for atom in monomial:
                term = term * self._atom(atom, Mode.refuses).astype("float64")
            total = total + term
        return total

    def product(self, shape: Shape, itemsize: int) -> Expr:
        """The bytes of a tensor that is known to fit into memory."""
        total: Expr = i64(itemsize)
        for d in shape:
            if d != 1:
                total = self._cell(total * self.value(d, Mode.wraps))
        return total

    def kept(self, value: Expr) -> Expr:
        """A value that is computed once, whatever reads it."""
        return self._cell(value)

    def title(self, dim: Dim, value: Expr) -> list[tuple[str, Expr]]:
        """A dimension and its value for a message, unless it is too long to be read."""
        text = re.sub(r"@?\w+", lambda name: self.titles.get(name[0], name[0]), str(dim))
        return [(text, value)] if len(text) <= LONGEST and not isinstance(dim, int) else []

    def sources(self, *dims: Dim) -> list[tuple[str, Expr]]:
        """The elements of tensors that dimensions are computed from, for a message."""
        names = sorted(symbols_of(*(d for d in dims if as_symbol(d) is None)) & set(self.titles))
        return [(self.titles[n], self.value(symbol(n), Mode.wraps)) for n in names[:SHOWN]]

    def _polynomial(self, dim: Any, mode: Mode) -> Expr:
        # what is added comes first, so that differences of large numbers are exact
        total: Expr = None
        for monomial, coefficient in sorted(dim.terms, key=lambda term: term[1] < 0):
            factors = [self._atom(atom, mode) for atom in monomial]
            size = abs(coefficient)
            if size != 1 or not factors:
                factors.append(self.value(size, mode))
            term = factors[0]
            for factor in factors[1:]:
                term = self._arithmetic(lambda a, b: a * b, term, factor, dim, mode)
            if coefficient < 0:
                total = self._arithmetic(lambda a, b: a - b, i64(0) if total is None else total, term, dim, mode)
            else:
                total = term if total is None else self._arithmetic(lambda a, b: a + b, total, term, dim, mode)
        return total

    def _arithmetic(self, fn: Callable[[Expr, Expr], Expr], a: Expr, b: Expr, dim: Dim, mode: Mode) -> Expr:
        if mode is Mode.wraps:
            return self._cell(fn(a, b))
        exact = fn(a.astype("float64"), b.astype("float64"))
        large = tirx.const(float(LARGEST), "float64")
        over = tirx.Or(exact >= large, exact <= -large)
        if mode is Mode.refuses:
            shown = self.sources(dim) or [("of", a), ("and", b)]
            self.statements.append(refuse_if(over, self.where, "a dimension is too large", shown))
        bound = tirx.Select(exact > tirx.const(0.0, "float64"), i64(LARGEST), i64(-LARGEST))
        return self._cell(tirx.Select(over, bound, fn(a, b)))

    def _atom(self, atom: Symbol | Apply, mode: Mode) -> Expr:
        if isinstance(atom, Symbol):
            if atom.name not in self.symbols:
                self.symbols[atom.name] = tirx.Var(variable_name(atom.name), "int64")
            return self.symbols[atom.name]
        if (atom, mode) not in self._applied:
            self._applied[atom, mode] = self._cell(self._apply(atom, mode))
        return self._applied[atom, mode]

    def _cell(self, value: Expr) -> Expr:
        if self._count == self._most:
            raise UnsupportedOpError(
                f"the dimensions of {self.where} depend on data in too many ways",
                hint="make the operands that decide shapes constants, or fix the input shapes with --shape",
            )
        at = [i64(self._count)]
        self._count += 1
        self.statements.append(tirx.BufferStore(self.cells, value, at))
        return tirx.BufferLoad(self.cells, at)

    def _apply(self, atom: Apply, mode: Mode) -> Expr:
        inner = Mode.saturates if atom.fn == "where" and mode is Mode.refuses else mode
        a, b, *rest = (self.value(d, inner) for d in atom.args)
        if atom.fn in ("floordiv", "mod"):
            return self._divide(atom, a, b, mode)
        if atom.fn in ("max", "min"):
            return tirx.max(a, b) if atom.fn == "max" else tirx.min(a, b)
        if atom.fn == "eq":
            return tirx.Select(tirx.EQ(a, b), i64(1), i64(0))
        if atom.fn == "lt":
            return tirx.Select(tirx.LT(a, b), i64(1), i64(0))
        return tirx.Select(tirx.NE(a, i64(0)), b, rest[0])

    def _divide(self, atom: Apply, a: Expr, b: Expr, mode: Mode) -> Expr:
        """Neither 0 nor -1 divides: the smallest integer by -1 traps as a division by 0 does."""
        quotient = atom.fn == "floordiv"
        if isinstance(atom.args[1], int) and atom.args[1] not in (0, -1):
            return tirx.floordiv(a, b) if quotient else tirx.floormod(a, b)
        nothing = tirx.EQ(b, i64(0))
        if mode is Mode.refuses:
            self.statements.append(
                refuse_if(nothing, self.where, "a dimension divides by zero", self._operands(atom, a, b))
            )
        safe = self._cell(tirx.Select(tirx.Or(nothing, tirx.EQ(b, i64(-1))), i64(1), b))
        if not quotient:
            return tirx.floormod(a, safe)
        return tirx.Select(tirx.EQ(b, i64(-1)), i64(0) - a, tirx.floordiv(a, safe))

    def _operands(self, atom: Apply, a: Expr, b: Expr) -> list[tuple[str, Expr]]:
        left, right = atom.args
        return [*self.title(left, a), *self.title(right, b), *self.sources(left, right)]

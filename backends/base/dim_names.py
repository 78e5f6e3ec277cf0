"""Names for dimensions that the program computes once, ahead of the kernels that use them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from graphopt.ir.atoms import Apply
from graphopt.ir.dims import Dim, SymExpr, as_symbol, nonnegative

CONDITIONAL = frozenset({"where", "eq", "lt"})


def variable_name(symbol: str) -> str:
    """What generated code calls a dimension: an ASCII identifier, another one for every name."""
    clean = re.sub(r"\W", "_", symbol, flags=re.ASCII)
    if clean == symbol:
        return f"s_{clean}"
    return f"s_{clean[:40]}_{hashlib.blake2b(symbol.encode('utf-8', 'surrogatepass'), digest_size=6).hexdigest()}"


@dataclass
class DimNames:
    """Hands out a symbol for every dimension that selects or depends on data.

    TVM's passes take for ever on shapes full of selections, and a negative extent has to be caught before anything is allocated.

    Attributes:
        fresh: makes a new name.
        bound: symbols whose values come out of tensors.
        known: the names given.
        pending: those not yet computed by the program.
        extents: those that measure a buffer and must not be negative.
        spells_selections: whether selections over the inputs' extents are left as they are, on targets where no kernel can
            hand dimensions to the host.
    """

    fresh: Callable[[], str]
    bound: set[str] = field(default_factory=set)
    known: dict[Dim, str] = field(default_factory=dict)
    pending: list[Dim] = field(default_factory=list)
    extents: set[Dim] = field(default_factory=set)
    spells_selections: bool = False

    def name(self, dim: Dim, extent: bool = False) -> str | None:
        """The symbol to use for a dimension, None if it is to be spelt out."""
        if isinstance(dim, int):
            return None
        if dim not in self.known:
            if not needs_symbol(dim, self.bound) or (self.spells_selections and not dim.symbols() & self.bound):
                return None
            self.known[dim] = self.fresh()
            self.pending.append(dim)
        if extent:
            self.extents.add(dim)
        return self.known[dim]

    def inner(self, fresh: Callable[[], str]) -> DimNames:
        """For a program within the program: what is known stays known."""
        return DimNames(fresh, set(self.bound), dict(self.known), spells_selections=self.spells_selections)


def needs_symbol(dim: Dim, bound: Iterable[str]) -> bool:
    """Whether a dimension should be computed once and named."""
    if isinstance(dim, int):
        return False
    return has_conditions(dim) or bool(dim.symbols() & set(bound) and (as_symbol(dim) is None or not nonnegative(dim)))


def has_conditions(dim: Dim) -> bool:
    """Whether the expression contains a selection or comparison."""
    return isinstance(dim, SymExpr) and any(
        isinstance(a, Apply) and (a.fn in CONDITIONAL or any(has_conditions(d) for d in a.args))
        for m, _ in dim.terms
        for a in m
    )

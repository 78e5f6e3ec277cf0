"""Symbols that turn out to be equal: what a value brought that is replaced by another one which holds the same."""

from __future__ import annotations

from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import Dim, SymExpr, as_symbol, kind_of, subs
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType, Type

_OF_VALUES = (SymbolKind.measured, SymbolKind.element)
"""Kinds of symbols that a value defines, so that they are gone when the value is."""


def equated(old: Value, new: Value, env: dict[str, Dim]) -> None:
    """Add to ``env`` the symbols that only ``old`` defines, with what ``new`` has in their places."""
    if isinstance(old.type, TensorType) and isinstance(new.type, TensorType):
        for have, made in zip(old.type.shape or (), new.type.shape or ()):
            _equate(have, made, env)
    if old.binds and old.content is not None:
        elements = new.content
        if new.data is not None and new.data.shape == old.content.shape:
            elements = new.data.astype(object)
        if elements is not None:
            for have, made in zip(old.content.reshape(-1), elements.reshape(-1)):
                _equate(have, made if isinstance(made, SymExpr) else int(made), env)


def _equate(have: Dim, made: Dim, env: dict[str, Dim]) -> None:
    made = subs(made, env)
    if have != made and kind_of(have) in _OF_VALUES:
        name = as_symbol(have)
        assert name is not None
        env.setdefault(name, made)


def substitute(graph: Graph, env: dict[str, Dim]) -> None:
    """Put dimensions in place of symbols in all types, contents and constraints of the graph and its subgraphs."""
    if not env:
        return
    gone = env.keys()
    for g in _graphs(graph):
        for value in [*g.inputs, *(o for n in g.nodes for o in n.outputs if o is not None)]:
            value.type = _replaced(value.type, env)
            content = value.content
            if content is not None and any(isinstance(d, SymExpr) and d.symbols() & gone for d in content.flat):
                value.content = content.copy()
                value.content.reshape(-1)[:] = [subs(d, env) for d in content.flat]
        pairs = {(subs(a, env), subs(b, env)): why for (a, b), why in g.constraints.items()}
        g.constraints = {(a, b): why for (a, b), why in pairs.items() if a != b}


def _replaced(type_: Type | None, env: dict[str, Dim]) -> Type | None:
    if not isinstance(type_, TensorType) or type_.shape is None or not type_.symbols & env.keys():
        return type_
    return TensorType(type_.dtype, tuple(subs(d, env) for d in type_.shape))


def _graphs(graph: Graph) -> list[Graph]:
    found = [graph]
    for g in found:  # grows meanwhile: no recursion
        found += [s for n in g.nodes for s in n.subgraphs]
    return found

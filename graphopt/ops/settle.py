"""Dimensions in their simplest form, given between what extents of inputs lie: ``min(n, 512)`` is ``n`` below 512."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphopt.ir.dims import SymExpr
from graphopt.ir.graph import Graph, Value
from graphopt.ir.intervals import Interval, settled
from graphopt.ir.types import TensorType, Type

Bounds = Mapping[str, Interval]


def settle(graph: Graph) -> None:
    """Bring all types and contents, subgraphs' too, to the form that the bounds of the graph allow.

    What bounds an extent may be found after what depends on it.
    """
    bounds = graph.bounds
    if not bounds:
        return
    for g in _graphs(graph):
        for value in (o for n in g.nodes for o in n.outputs if o is not None):
            value.type = settled_type(value.type, bounds)
            settle_content(value, bounds)


def settled_type(type_: Type | None, bounds: Bounds) -> Type | None:
    """The type with its dimensions in simplest form."""
    if not bounds or not isinstance(type_, TensorType) or type_.shape is None or type_.symbols.isdisjoint(bounds):
        return type_
    return TensorType(type_.dtype, tuple(settled(d, bounds) for d in type_.shape))


def settle_content(value: Value, bounds: Bounds) -> None:
    """Bring the elements of an integer tensor to their simplest form."""
    content = value.content
    if not bounds or content is None or value.binds:
        return
    if any(isinstance(d, SymExpr) and not d.symbols().isdisjoint(bounds) for d in content.flat):
        value.content = content.copy()
        value.content.reshape(-1)[:] = [settled(d, bounds) for d in content.flat]


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        for sub in node.subgraphs:
            yield from _graphs(sub)

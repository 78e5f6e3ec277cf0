"""Structural invariants of a graph, checked after import and after every pass."""

from __future__ import annotations

from graphopt.errors import InternalError
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, Node, Use, Value
from graphopt.ir.types import TensorType


def verify(graph: Graph) -> None:
    """Check definitions, order, use lists, names and constant types, in subgraphs too.

    Raises:
        InternalError: the first broken invariant, naming value and node.
    """
    seen: set[Value] = set()
    names: dict[str, Value] = {}
    uses: dict[Value, set[Use]] = {}
    escapes: dict[Value, int] = {}
    _verify(graph, seen, names, uses, escapes)
    for value in list(names.values()):
        if set(value.uses) != uses.get(value, set()):
            raise _broken(f"use list of %{value.name} is wrong: {set(value.uses)} recorded, {uses.get(value)} found")
        if value.escapes != escapes.get(value, 0):
            raise _broken(f"%{value.name} records {value.escapes} graph outputs, {escapes.get(value, 0)} found")


def _verify(
    graph: Graph, seen: set[Value], names: dict[str, Value], uses: dict[Value, set[Use]], escapes: dict[Value, int]
) -> None:
    for value in graph.inputs:
        _define(value, None, seen, names)
    for node in graph.nodes:
        if node.graph is not graph:
            raise _broken("node belongs to another graph", node)
        for i, operand in enumerate(node.inputs):
            if operand is None:
                continue
            _use(operand, seen, names, node)
            uses.setdefault(operand, set()).add(Use(node, i))
        for sub in node.subgraphs:
            if sub.parent is not graph:
                raise _broken("subgraph has another parent", node)
            _verify(sub, seen, names, uses, escapes)
        for out in node.outputs:
            if out is not None:
                _define(out, node, seen, names)
    for value in graph.outputs:
        _use(value, seen, names, None)
        escapes[value] = escapes.get(value, 0) + 1


def _define(value: Value, node: Node | None, seen: set[Value], names: dict[str, Value]) -> None:
    if value in seen:
        raise _broken(f"%{value.name} is defined twice", node)
    if value.producer is not node:
        raise _broken(f"%{value.name} records another producer", node)
    if value.is_const:
        raise _broken(f"%{value.name} is both constant and computed", node)
    _register(value, seen, names, node)


def _use(value: Value, seen: set[Value], names: dict[str, Value], node: Node | None) -> None:
    if value.is_const:
        if value.producer is not None:
            raise _broken(f"constant %{value.name} has a producer", node)
        if value not in seen:
            _check_constant(value, node)
            _register(value, seen, names, node)
    elif value not in seen:
        raise _broken(f"%{value.name} is used before it is defined", node)


def _register(value: Value, seen: set[Value], names: dict[str, Value], node: Node | None) -> None:
    if names.setdefault(value.name, value) is not value:
        raise _broken(f"two values are called %{value.name}", node)
    seen.add(value)


def _check_constant(value: Value, node: Node | None) -> None:
    assert value.data is not None
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape != tuple(value.data.shape):
        raise _broken(f"constant %{value.name} has type {type_} but an array of shape {value.data.shape}", node)
    if type_.dtype is not DType.string and type_.dtype.numpy != value.data.dtype:
        raise _broken(f"constant %{value.name} has type {type_} but an array of {value.data.dtype}", node)


def _broken(message: str, node: Node | None = None) -> InternalError:
    return InternalError(message, code="verifier", node=node.label if node else None)

"""The same graph with other outputs: how inner values are made visible for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType


def inner_values(graph: Graph) -> list[Value]:
    """Float tensors of known rank that the graph's own nodes compute, in order of computation."""
    return [
        value
        for node in graph.nodes
        for value in node.outputs
        if value is not None
        and isinstance(value.type, TensorType)
        and value.type.shape is not None
        and value.type.dtype.is_float
    ]


def with_outputs(graph: Graph, names: Sequence[str]) -> Graph:
    """A copy whose outputs are the values of the given names instead of its own.

    Raises:
        KeyError: the graph's nodes compute no value of that name.
    """
    copy = clone(graph)
    made = {value.name: value for node in copy.nodes for value in node.outputs if value is not None}
    Editor(copy).set_outputs(copy, [made[name] for name in names])
    return copy

"""What a node takes: its operands, and the outer values that its subgraphs read."""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node, Value


def operands(node: Node) -> list[Value]:
    """What a node takes, and what its subgraphs read from outside."""
    operands = [v for v in node.inputs if v is not None]
    for sub in node.subgraphs:
        operands += captured(sub)
    return operands


def captured(graph: Graph) -> list[Value]:
    """Outer values that a subgraph reads, constants left out."""
    own: set[Value] = set(graph.inputs)
    found: dict[Value, None] = {}
    for node in graph.nodes:
        operands = [v for v in node.inputs if v is not None]
        for sub in node.subgraphs:
            operands += captured(sub)
        found.update({v: None for v in operands if v not in own and not v.is_const})
        own.update(v for v in node.outputs if v is not None)
    found.update({v: None for v in graph.outputs if v not in own and not v.is_const})
    return list(found)

"""Which nodes a user asked for, to keep in float32 or to quantize: by name, by operator, or by pattern."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Graph, Node


def asked_nodes(graph: Graph, keep: Sequence[str], purpose: str = "to keep in float32") -> dict[Node, str]:
    """Nodes that the items name, with the item. A node is also found by the names of those that it was made from.

    Args:
        keep: names of nodes or operators; ``*`` and ``?`` stand for any letters.
        purpose: what for, in messages.

    Raises:
        UserError: an item names neither a node of the graph nor an operator.
    """
    names = {node: {node.name, *node.origins, node.op, node.qualified_op} for node in graph.walk()}
    found: dict[Node, str] = {}
    for item in keep:
        hits = [node for node, called in names.items() if any(fnmatchcase(name, item) for name in called)]
        if not hits and item not in {schema.name for schema in onnx.defs.get_all_schemas()}:
            known = sorted({name for called in names.values() for name in called})
            raise UserError(
                f"there is no node or operator {item!r} {purpose}", code="unknown-node",
                hint=did_you_mean(item, known) or "names are those that `graphopt inspect` shows; * stands for any letters",
            )  # fmt: skip
        for node in hits:
            found.setdefault(node, item)
    return found

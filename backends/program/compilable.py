"""Is every node of a graph something that code can be generated for? Asked before any work is spent on it."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.errors import UnsupportedOpError
from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import TensorType


def require_compilable(graph: Graph, lowerable: Callable[[Node], bool]) -> None:
    """Refuse operators without a lowering and values that are no tensors of known rank.

    Raises:
        UnsupportedOpError: the first such node, with what to do about it.
    """
    for node in graph.walk():
        if not lowerable(node):
            raise UnsupportedOpError(
                f"operator {node.qualified_op} can't be compiled", node=node.label,
                hint="`graphopt inspect --ops` lists what can; replace it in the model or export without it",
            )  # fmt: skip
        for value in node.outputs:
            if value is None or (isinstance(value.type, TensorType) and value.type.shape is not None):
                continue
            raise UnsupportedOpError(
                f"%{value.name} is {value.type or 'of unknown type'}; kernels compute tensors of known rank",
                code="unsupported-type", node=node.label,
                hint="export the model without sequences and optionals, and with operands that decide ranks as constants",
            )  # fmt: skip

"""Normalisations and softmax in parts: what combines data with its own mean, sum or maximum."""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.registry import ELEMENTWISE, REDUCE, has_trait

_REASON = "it combines data with a statistic of it, as normalisations and softmax do"


def statistics_readers(graph: Graph) -> dict[Node, str]:
    """Element-wise nodes that read the result of a reduction, with the reason to keep them in float32.

    Values in 16 bits are followed too, or a graph converted already would be seen otherwise than before.
    A difference from the mean or the maximum cancels, and what is left is as exact as its operands. What only computes on
    statistics (a variance plus epsilon, its root) makes a statistic again; data divided by one is data.
    """
    found: dict[Node, str] = {}
    statistics: set[Value] = set()
    for node in graph.walk():
        made = [v for v in node.outputs if v is not None and _is_float(v)]
        if has_trait(node, REDUCE):
            statistics.update(made)
        elif made and has_trait(node, ELEMENTWISE):
            floats = [v for v in node.inputs if v is not None and _is_float(v)]
            if any(v in statistics for v in floats):
                found[node] = _REASON
                if all(v in statistics or v.is_const for v in floats):
                    statistics.update(made)
    return found


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.is_float

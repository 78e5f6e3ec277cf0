"""Operators without a kernel become the function of simpler operators that ONNX defines for them."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node
from graphopt.ops.functions import expand, function_body
from graphopt.ops.infer import infer_node

MAX_DEPTH = 16
"""Functions within functions; ONNX's own nest three deep."""


def expand_functions(graph: Graph, lowerable: Callable[[Node], bool]) -> int:
    """Expand, in subgraphs too, every node that ``lowerable`` refuses and ONNX has a function body for.

    Args:
        lowerable: whether a node can be compiled as it is.

    Returns:
        How many nodes were expanded. Nodes that are neither lowerable nor functions stay, for lowering to report.
    """
    return _expand(graph, lowerable, 0)


def _expand(graph: Graph, lowerable: Callable[[Node], bool], depth: int) -> int:
    editor = Editor(graph, infer_node)
    count = 0
    todo = [(node, depth) for node in graph.nodes]
    while todo:
        node, depth = todo.pop()
        if depth < MAX_DEPTH and not lowerable(node) and function_body(node) is not None:
            todo.extend((new, depth + 1) for new in expand(node, editor))
            count += 1
            continue
        count += sum(_expand(sub, lowerable, depth) for sub in node.subgraphs)
    return count

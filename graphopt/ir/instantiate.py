"""A copy of a subgraph's nodes in the graph around it, with values in place of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value


def instantiate(body: Graph, inputs: Sequence[Value], editor: Editor, before: Node) -> tuple[list[Value], list[Node]]:
    """Insert a copy of the nodes of ``body`` before ``before``.

    Args:
        body: a subgraph of the graph of ``editor``; it stays as it is.
        inputs: stand for the inputs of ``body``.
        editor: edits the graph around ``body``; types are the caller's business if it infers none.

    Returns:
        What stands for the outputs of ``body``, and the new nodes in order.
    """
    values = dict(zip(body.inputs, inputs))
    made = [_copy(node, values, editor, before) for node in body.nodes]
    return [values.get(v, v) for v in body.outputs], made


def _copy(node: Node, values: dict[Value, Value], editor: Editor, before: Node | None) -> Node:
    operands = [None if v is None else values.get(v, v) for v in node.inputs]
    attrs: dict[str, Any] = {
        k: _copy_graph(a, values, editor.graph) if isinstance(a, Graph) else a for k, a in node.attrs.items()
    }
    outputs = [None if v is None else editor.value(v.name) for v in node.outputs]
    new = editor.node(
        node.op, operands, attrs, outputs=outputs, domain=node.domain, name=node.name or node.op.lower(), before=before
    )
    new.origins = node.origins
    values.update({old: out for old, out in zip(node.outputs, outputs) if old is not None and out is not None})
    return new


def _copy_graph(graph: Graph, outer: dict[Value, Value], parent: Graph) -> Graph:
    copy = Graph(graph.name, opset=graph.opset, source=graph.source, parent=parent)
    editor = Editor(copy)
    values = dict(outer)
    for v in graph.inputs:
        assert v.type is not None
        values[v] = editor.add_input(v.name, v.type)
    for node in graph.nodes:
        _copy(node, values, editor, None)
    for i, v in enumerate(graph.outputs):
        editor.set_output(copy, i, values.get(v, v))
    return copy


__all__ = ["instantiate"]

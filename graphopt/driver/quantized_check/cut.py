"""A quantized graph cut where integers are made: what lies behind reads integers that are given."""

from __future__ import annotations

from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Graph, Node, Value


def quantizing_nodes(graph: Graph) -> list[Node]:
    """QuantizeLinear nodes of the outermost graph with constant scales, in order: where data becomes integers."""
    return [
        node
        for node in graph.nodes
        if node.op == "QuantizeLinear"
        and not node.domain
        and (scale := node.input(1)) is not None
        and scale.data is not None
        and ((zero := node.input(2)) is None or zero.data is not None)
        and (value := node.input(0)) is not None
        and not value.is_const
        and value.dtype.numpy.kind == "f"
        and node.out.dtype.numpy.kind in "iu"
    ]


def cut_graph(graph: Graph) -> Graph:
    """A copy with one more input for each result of ``quantizing_nodes``, which all that read the result read instead.

    The inputs are in order behind the graph's own. Outputs are the results, what they are made from, and the graph's own outputs,
    all as far as nodes compute them and each name once.
    """
    copy = clone(graph)
    editor = Editor(copy)
    wanted: dict[str, Value] = {}
    for node in quantizing_nodes(copy):
        given = editor.add_input(f"{node.out.name}_given", node.out.tensor)
        for use in list(node.out.uses):
            editor.set_input(use.node, use.index, given)
        source = node.inputs[0]
        assert source is not None
        for value in (source, node.out):
            if value.producer is not None:
                wanted[value.name] = value
    wanted.update((value.name, value) for value in copy.outputs if value.producer is not None)
    editor.set_outputs(copy, list(wanted.values()))
    return copy

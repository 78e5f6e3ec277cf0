"""Small graphs for tests of the IR."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.infer import infer_node


def new_graph(*shape: Dim) -> tuple[Graph, Editor, Value]:
    """A graph with one f32 input ``x`` and an editor that infers types."""
    graph = Graph("g", opset=18)
    editor = Editor(graph, infer_node)
    return graph, editor, editor.add_input("x", TensorType(DType.f32, tuple(shape)))


def chain(*ops: str) -> tuple[Graph, Editor, list[Node]]:
    """``x: f32[2, 3]`` through unary operators to the only output."""
    graph, editor, value = new_graph(2, 3)
    nodes = []
    for op in ops:
        nodes.append(editor.node(op, [value]))
        value = nodes[-1].out
    editor.set_output(graph, 0, value)
    return graph, editor, nodes


def weight(editor: Editor, *shape: int) -> Value:
    """A constant counting up from 0."""
    return editor.constant(np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape), "w")

"""What is computed in branches and loops, made visible: values of their bodies as results of the outermost graph.

An If hands on a value of one branch, and nothing where the other one is taken. A Loop or Scan hands on what a value is in every
iteration, one after the other, as a scan output. All are flat, since statistics don't ask for shapes.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import kinds_in
from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.registry import LOOP, has_trait
from graphopt.rewrite.passes import PassContext

_FIXED = {SymbolKind.named, SymbolKind.unnamed}
"""What is the same in every iteration: extents of the model's inputs."""


class Bodies:
    """The graphs inside of a graph, by who holds them.

    Args:
        graph: the outermost one.
    """

    def __init__(self, graph: Graph) -> None:
        self._owners: dict[Graph, Node] = {}
        self._inputs: dict[Value, Graph] = dict.fromkeys(graph.inputs, graph)
        for node in graph.walk():
            for body in node.subgraphs:
                self._owners[body] = node
                self._inputs.update((value, body) for value in body.inputs)

    def home(self, value: Value) -> Graph | None:
        """The graph that a value belongs to; None for a constant, which belongs to all."""
        return value.producer.graph if value.producer is not None else self._inputs.get(value)

    def hidden(self, value: Value) -> str | None:
        """Why no data shows what a value is; None for one that ``exposed`` makes visible, or that is visible as it is."""
        body, branch = self.home(value), False
        while body is not None and (owner := self._owners.get(body)) is not None:
            if owner.op == "If":
                branch = True
            elif not has_trait(owner, LOOP):
                return f"data doesn't show what {owner.label} computes"
            elif branch:
                return f"data doesn't show what is computed in some iterations of {owner.label} only"
            elif kinds_in(*value.shape) - _FIXED:
                return f"data doesn't show %{value.name}, whose shape may change from one iteration of {owner.label} to the next"
            body = body.parent
        return None


def exposed(graph: Graph, names: Collection[str], ctx: PassContext) -> tuple[Graph, dict[str, str]]:
    """A copy of a graph in which nodes hand on values of their bodies.

    Args:
        names: of values in bodies that aren't hidden, see ``Bodies.hidden``.

    Returns:
        The copy, and by the name of each value that of the one in the outermost graph that shows it.
    """
    work = clone(graph)
    found = _Exposing(frozenset(names), ctx).run(work)
    return work, {name: value.name for name, value in found.items() if value.name != name}


class _Exposing:
    def __init__(self, names: frozenset[str], ctx: PassContext) -> None:
        self.names, self.ctx = names, ctx

    def run(self, graph: Graph) -> dict[str, Value]:
        """What shows each of the named values in a graph: they themselves, or results of nodes that hold them."""
        found = {value.name: value for value in graph.inputs if value.name in self.names}
        for node in list(graph.nodes):
            found.update((v.name, v) for v in node.outputs if v is not None and v.name in self.names)
            for body in node.subgraphs:
                inner = self.run(body)
                if inner:
                    found.update(zip(inner, self.hand_on(node, body, list(inner.values()))))
        return found

    def hand_on(self, node: Node, body: Graph, values: list[Value]) -> list[Value]:
        """New results of a node that show values of one of its bodies."""
        others = [other for other in node.subgraphs if other is not body]
        for branch in (body, *others):
            editor = self.ctx.editor(branch)
            for value in values:
                editor.set_output(branch, len(branch.outputs), self.flat(editor, value if branch is body else None))
        for name in ("scan_output_axes", "scan_output_directions"):
            if node.attrs.get(name):
                self.ctx.editor(body).set_attr(node, name, [*node.attrs[name], *[0] * len(values)])
        assert node.graph is not None
        state = 1 if node.op == "Loop" else 0  # whether to go on is no result
        return self.ctx.editor(node.graph).add_outputs(node, len(body.outputs) - state, len(values))

    @staticmethod
    def flat(editor: Editor, value: Value | None) -> Value:
        """All numbers of a value in a row at the end of the editor's graph; no numbers for None."""
        if value is None:
            return editor.node("Identity", [editor.constant(np.zeros(0, np.float32), "nothing")], name="seen").out
        shape = editor.constant(np.asarray([-1], np.int64), "flat")
        return editor.node("Reshape", [value, shape], name=f"{value.name}_seen").out

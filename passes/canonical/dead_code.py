"""Dead-code elimination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph
from graphopt.rewrite.passes import Pass, PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class DeadCode(Pass):
    """Removes nodes whose results nobody uses. Graph inputs stay: they are the model's interface."""

    name: ClassVar[str] = "dead-code"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Sweep backwards: a node's users come after it, so one sweep removes whole dead chains."""
        self._sweep(graph, ctx.editor(graph))

    def _sweep(self, graph: Graph, editor: Editor) -> None:
        for node in list(reversed(graph.nodes)):
            if all(o is None or not (o.uses or o.escapes) for o in node.outputs):
                editor.erase(node)
            else:
                for sub in node.subgraphs:
                    self._sweep(sub, editor)

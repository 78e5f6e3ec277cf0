"""Operators without a kernel become the function of simpler operators that ONNX defines for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph, Node
from graphopt.ops.functions import expand, function_body
from graphopt.rewrite.passes import Pass, PassContext, register_pass

MAX_DEPTH = 16
"""Functions within functions; ONNX's own nest three deep."""


@register_pass
@dataclass(frozen=True)
class ExpandFunctions(Pass):
    """Replaces operators that the target has no kernel for by the function that ONNX defines for them.

    What is neither compiled as it is nor a function stays, for lowering to report. Without a target only ``ops`` are expanded.

    Attributes:
        ops: operators to expand even where there is a kernel.
    """

    name: ClassVar[str] = "expand-functions"
    ops: tuple[str, ...] = ()

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """In subgraphs too."""
        self._expand(graph, ctx, 0)

    def _expand(self, graph: Graph, ctx: PassContext, depth: int) -> None:
        editor = ctx.editor(graph)
        todo = [(node, depth) for node in graph.nodes]
        while todo:
            node, depth = todo.pop()
            if depth < MAX_DEPTH and self._is_wanted(node, ctx) and function_body(node) is not None:
                made = expand(node, editor)
                ctx.applied(node, f"became {len(made)} operators of its function")
                todo.extend((new, depth + 1) for new in made)
                continue
            for sub in node.subgraphs:
                self._expand(sub, ctx, depth)

    def _is_wanted(self, node: Node, ctx: PassContext) -> bool:
        if not node.domain and node.op in self.ops:
            return True
        return ctx.lowerable is not None and not ctx.lowerable(node)

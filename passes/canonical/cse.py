"""Common subexpression elimination."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.dims import Dim
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node
from graphopt.ir.unify import equated, substitute
from graphopt.ops.registry import COMMUTATIVE, has_trait
from graphopt.rewrite.passes import Pass, PassContext, register_pass
from graphopt.rewrite.purity import is_pure

Table = dict[Hashable, Node]


@register_pass
@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Computes once what equal operators compute of the same operands. Never for random operators."""

    name: ClassVar[str] = "cse"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Visit in order, so that operands are merged before their users."""
        symbols: dict[str, Dim] = {}
        self._run(graph, {}, symbols, ctx)
        substitute(graph, symbols)

    def _run(self, graph: Graph, outer: Table, symbols: dict[str, Dim], ctx: PassContext) -> None:
        editor = ctx.editor(graph)
        table = dict(outer)  # what a subgraph computes is not visible outside, but the reverse
        for node in list(graph.nodes):
            for sub in node.subgraphs:
                self._run(sub, table, symbols, ctx)
            if node.domain or node.subgraphs or not is_pure(node):
                continue
            first = table.setdefault(_key(node), node)
            if first is not node:
                self._merge(node, first, editor, symbols, ctx)

    @staticmethod
    def _merge(node: Node, first: Node, editor: Editor, symbols: dict[str, Dim], ctx: PassContext) -> None:
        pairs = [(o, f) for o, f in zip(node.outputs, first.outputs) if o is not None and (o.uses or o.escapes)]
        if any(f is None or not editor.can_take_name(o, f) for o, f in pairs):
            ctx.refuse(node, f"{first.label} computes the same, but both are graph outputs under their own names")
            return
        for old, new in pairs:
            assert new is not None
            equated(old, new, symbols)
            if new.content is None:
                new.content, new.binds = old.content, old.binds
            editor.replace(old, new)
        editor.erase(node)


def _key(node: Node) -> Hashable:
    inputs = [id(v) if v is not None else 0 for v in node.inputs]
    if has_trait(node, COMMUTATIVE):
        inputs.sort()
    present = tuple(o is not None for o in node.outputs)
    attrs = tuple(sorted((k, _freeze(v)) for k, v in node.attrs.items()))
    return (node.op, tuple(inputs), present, attrs)


def _freeze(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes() if value.dtype != object else repr(value.tolist()))
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(v) for v in value)
    if isinstance(value, float):
        return repr(value)  # tells 0.0 from -0.0, and NaN equals itself
    return value if isinstance(value, (int, str, bytes)) else repr(value)

"""RewritePass: a pass that is nothing but a list of rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph
from graphopt.rewrite.passes import Pass, PassContext
from graphopt.rewrite.rewrite_set import RewriteSet
from graphopt.rewrite.rule import Rule


@dataclass(frozen=True)
class RewritePass(Pass):
    """Applies ``rules`` to a fixpoint."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Rewrite until nothing matches."""
        RewriteSet(self.rules).apply(graph, ctx)

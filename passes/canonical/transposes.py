"""Transposes moved until they cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph
from graphopt.ops.context import attr
from graphopt.passes.canonical.transpose_region import Region
from graphopt.passes.canonical.views import perm_of
from graphopt.rewrite.passes import Pass, PassContext, graphs, register_pass


@register_pass
@dataclass(frozen=True)
class MoveTransposes(Pass):
    """Computes groups of element-wise, Concat, Reduce, ... nodes in another axis order where that saves transposes.

    For each Transpose T(p) the region of nodes after it is found in which every value v could be kept as v' with
    v = Transpose(v', p). Flipping the region drops the transposes at its border that p cancels and inserts others where
    values enter or leave it; it is done only if the count falls, so the pass ends.
    """

    name: ClassVar[str] = "move-transposes"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Flip regions until none pays."""
        for g in list(graphs(graph)):
            while self._flip_one(g, ctx):
                pass

    @staticmethod
    def _flip_one(graph: Graph, ctx: PassContext) -> bool:
        for node in graph.nodes:
            if node.op != "Transpose" or node.domain:
                continue
            perm = perm_of(attr(node, "perm"), len(node.out.shape))
            if perm == sorted(perm):
                continue
            best: Region | None = None
            for backwards in (True, False):
                region = Region.grow(node, perm, backwards=backwards)
                if region.nodes and region.gain() > 0 and (best is None or region.gain() > best.gain()):
                    best = region
            if best is not None:
                ctx.applied(node, f"{best.gain()} fewer transposes by flipping {len(best.nodes)} nodes")
                best.flip(ctx.editor(graph))
                return True
            ctx.refuse(node, "no group of nodes after it would need fewer transposes in another axis order")
        return False

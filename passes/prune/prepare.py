"""What is written anew before channels are looked for: detours through merged axes, in which none can be followed."""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.passes.canonical.dead_code import DeadCode
from graphopt.passes.canonical.views import SplitMergedTransposes
from graphopt.rewrite.passes import PassContext


def prepare(graph: Graph, ctx: PassContext | None = None) -> int:
    """Rewrite a graph in place; returns how many nodes are new.

    Attention's keys whose batch, heads and length are merged and divided again around a transposition say with ``Shape`` how,
    which counts their channels at run time. One Transpose does the same.
    """
    ctx = ctx or PassContext()
    before = set(graph.nodes)
    SplitMergedTransposes().run(graph, ctx)
    new = len(set(graph.nodes) - before)
    if new:
        DeadCode().run(graph, ctx)  # the numbers of the axes, which nobody needs now
    return new

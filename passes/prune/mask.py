"""The masked original: the same graph with a plan's channels set to zero wherever they occur, and nothing removed.

It is the definition of what a pruned graph has to compute. Values are masked after every node, so the plan's index maps
alone decide what is zero, not the surgery on weights that is to be checked.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Graph
from graphopt.ops.infer import infer_node
from graphopt.passes.prune.plan import PrunePlan


def masked_graph(plan: PrunePlan) -> Graph:
    """A copy of the analysed graph whose values are zero at the plan's channels."""
    graph = plan.groups.graph
    work = clone(graph)
    editor = Editor(work, infer_node)
    for old, new in list(zip(graph.nodes, list(work.nodes), strict=True)):
        for before, after in zip(old.outputs, new.outputs):
            if before is None or after is None or not after.uses:
                continue
            masks = plan.keep(before)
            if all(m is None or m.all() for m in masks):
                continue
            keep = np.ones((1,) * len(masks), bool)
            for axis, mask in enumerate(masks):
                if mask is not None and not mask.all():
                    keep = keep & mask.reshape([-1 if i == axis else 1 for i in range(len(masks))])
            uses = list(after.uses)
            following = work.nodes[work.nodes.index(new) + 1]
            zero = editor.constant(np.zeros((), after.dtype.numpy), f"{after.name}_zero")
            chosen = editor.node(
                "Where", [editor.constant(keep, f"{after.name}_keep"), after, zero], name=f"{after.name}_masked",
                before=following,
            )  # fmt: skip
            for use in uses:
                editor.set_input(use.node, use.index, chosen.out)
    return work

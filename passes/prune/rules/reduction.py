"""Reductions: sums take no notice of channels that are zero; means, maxima and products do."""

from __future__ import annotations

from graphopt.ops.context import InferContext, attr
from graphopt.ops.reduction import reduced_axes
from graphopt.ops.registry import REDUCE
from graphopt.ops.table import ops_with
from graphopt.passes.prune.labels import RuleContext
from graphopt.passes.prune.rules.registry import labels_of

_SUMS = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare"})


@labels_of(*ops_with(REDUCE))
def reduce(c: RuleContext) -> None:
    """Axes that are not reduced pass."""
    graph = c.node.graph
    assert graph is not None
    axes = reduced_axes(InferContext(c.node, graph))
    x = c.labels(0)
    if c.node.op not in _SUMS:
        for axis in axes:
            c.freeze(x[axis], f"{c.node.label} would give another result without some of them")
    keep = bool(attr(c.node, "keepdims"))
    c.set([None if i in axes else labels for i, labels in enumerate(x) if keep or i not in axes])


@labels_of("ArgMax", "ArgMin")
def arg(c: RuleContext) -> None:
    """Positions along the axis."""
    x = c.labels(0)
    at = int(attr(c.node, "axis")) % len(x)
    c.freeze(x[at], f"{c.node.label} returns positions along it")
    keep = bool(attr(c.node, "keepdims"))
    c.set([None if i == at else labels for i, labels in enumerate(x) if keep or i != at])


@labels_of("CumSum", "CumProd", "TopK")
def along(c: RuleContext) -> None:
    """What runs along an axis keeps it."""
    x = c.labels(0)
    if c.node.op == "TopK":
        at = int(attr(c.node, "axis")) % len(x)
    else:
        operand = c.node.input(1)
        if operand is None or operand.data is None:
            c.refuse(f"{c.node.label} runs along an axis that is not known when compiling")
            return
        at = int(operand.data.reshape(-1)[0]) % len(x)
    c.freeze(x[at], f"{c.node.label} runs along it")
    for index, out in enumerate(c.node.outputs):
        if out is not None:
            c.set([None if i == at else labels for i, labels in enumerate(x)], index)

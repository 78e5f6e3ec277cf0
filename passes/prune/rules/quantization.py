"""Quantisation: scales and zero points follow the channels they belong to."""

from __future__ import annotations

from graphopt.ops.context import attr
from graphopt.passes.prune.labels import Role, RuleContext
from graphopt.passes.prune.rules.registry import labels_of


@labels_of("QuantizeLinear", "DequantizeLinear")
def quantize(c: RuleContext) -> None:
    """Scale per tensor, or one an index of ``axis``."""
    x = c.labels(0)
    if attr(c.node, "block_size"):
        c.refuse(f"{c.node.label} has scales for blocks of channels")
        return
    for index in (1, 2):
        if c.has(index) and len(c.shape(index)) == 1 and c.shape(index)[0] != 1:
            c.tie(index, 0, x[int(attr(c.node, "axis")) % len(x)])
            c.role(index, 0, Role.PARAMETER)
    c.set(x)

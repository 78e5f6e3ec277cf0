"""Layers on quantised data. A channel may go from their sums only where zero is what the sum takes for zero.

The term that a channel adds is (x - x_zero_point) * (w - w_zero_point). It vanishes if the channel's zero is x_zero_point.
"""

from __future__ import annotations

from graphopt.ops.context import attr
from graphopt.passes.prune.labels import Role, RuleContext
from graphopt.passes.prune.rules.contraction import convolution, matmul
from graphopt.passes.prune.rules.registry import AdjustContext, adjusts, labels_of
from graphopt.passes.prune.tokens import Labels
from graphopt.passes.prune.zero_points import same_number, zero_of


@labels_of("ConvInteger", "QLinearConv")
def integer_convolution(c: RuleContext) -> None:
    """ConvInteger: x, w and zero points; QLinearConv: x, w and y with scale and zero point each, and a bias."""
    linear = c.node.op == "QLinearConv"
    weight, zero = (3, 2) if linear else (1, 2)
    x, w = c.labels(0), c.labels(weight)
    depthwise = int(attr(c.node, "group") or 1) > 1 and c.shape(weight)[1] == 1
    if not depthwise and not _vanishes(c, 0, zero):
        _keep_sum(c, x[1], w[1])
    convolution(c, weight=weight, bias=8 if linear else 9)
    for index in (4, 5) if linear else (3,):
        _per_channel(c, index, w[0])


@labels_of("MatMulInteger", "QLinearMatMul")
def integer_product(c: RuleContext) -> None:
    """MatMulInteger: a, b and zero points; QLinearMatMul: a, b and y with scale and zero point each."""
    linear = c.node.op == "QLinearMatMul"
    right, zeros = (3, (2, 5)) if linear else (1, (2, 3))
    if any(c.has(i) and c.shape(i) not in ((), (1,)) for i in ((1, 2, 6, 7) if linear else (2,))):
        c.refuse(f"{c.node.label} has a scale or zero point for each row")
        return
    b = c.labels(right)
    if any(c.has(i) and len(c.shape(i)) > 1 for i in (*zeros, 4 if linear else 3)):
        c.refuse(f"{c.node.label} has scales for stacked matrices")
        return
    if not (_vanishes(c, 0, zeros[0]) or _vanishes(c, right, zeros[1])):
        _keep_sum(c, c.labels(0)[-1], b[max(len(b) - 2, 0)])
    matmul(c, right=right)
    for index in (4, 5) if linear else (3,):
        _per_channel(c, index, b[-1] if len(b) > 1 else None)


def _vanishes(c: RuleContext, index: int, zero_point: int) -> bool:
    value = c.node.input(index)
    if value is None or value.is_const:
        return False
    zero = zero_of(value)
    return zero is not None and zero == same_number(c.node.input(zero_point))


def _keep_sum(c: RuleContext, *summed: Labels | None) -> None:
    for labels in summed:
        c.freeze(labels, f"{c.node.label} sums over it with a zero point that differs from what a masked channel holds")


def _per_channel(c: RuleContext, index: int, channels: Labels | None) -> None:
    if c.has(index) and len(c.shape(index)) == 1 and c.shape(index)[0] != 1:
        c.tie(index, 0, channels)
        c.role(index, 0, Role.PARAMETER)


@adjusts("ConvInteger", "QLinearConv")
def follow_groups(a: AdjustContext) -> None:
    """The number of groups that are left."""
    weight = 3 if a.node.op == "QLinearConv" else 1
    if a.lost and int(attr(a.node, "group") or 1) > 1:
        a.editor.set_attr(a.node, "group", a.kept(0, 1) // a.kept(weight, 1))

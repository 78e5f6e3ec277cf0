"""Where convolutions meet plain values: whether copies into and out of channel blocks cost less than they save.

Winograd's algorithm takes blocks alone, so a convolution between plain values may be worth a copy on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Value
from graphopt.ir.layout import PLAIN, Layout


@dataclass(frozen=True)
class LayoutCosts:
    """What the target predicts that layouts cost.

    Attributes:
        kernel: seconds of a group's best kernel in the layouts of its graph, None if no template takes it so.
        copy: seconds to bring a value into or out of the layouts of convolutions.
        layout: that in which a convolution would read a value.
    """

    kernel: Callable[[FusedGraph, Group], float | None]
    copy: Callable[[Value], float]
    layout: Callable[[Value], Layout]


@dataclass(frozen=True)
class Border:
    """Layouts of one convolution.

    Attributes:
        layout: that of its results.
        copied: plain operands that it should read from copies in its own layout.
    """

    layout: Layout
    copied: tuple[Value, ...] = ()


def cheapest_border(
    fused: FusedGraph, group: Group, layout: Layout, wanted: bool, costs: LayoutCosts, ready: set[Value]
) -> Border | None:
    """The layouts of a convolution with the least predicted time, copies included; None if no template takes any.

    Args:
        fused: layouts as far as they are decided: those of the operands.
        group: the convolution and its epilogue.
        layout: that which its results could have instead of the plain one.
        wanted: whether somebody reads the results so: then they have it.
        costs: the target's predictions.
        ready: operands that have such a copy already.
    """
    plain = tuple(v for v in group.inputs if _copyable(fused, group, v, costs))
    operands = [(), plain] if _data(group) in plain else [()]
    best: tuple[float, Border] | None = None
    for copied, out in product(operands, [layout] if wanted else [PLAIN, layout]):
        layouts = {v: costs.layout(v) for v in copied} | dict.fromkeys(group.outputs, out)
        seconds = costs.kernel(fused.trial(layouts), group)
        if seconds is None:
            continue
        seconds += sum(costs.copy(v) for v in copied if v not in ready)
        if not (out.is_plain or wanted):
            seconds += sum(costs.copy(v) for v in group.outputs)
        if best is None or seconds < best[0]:
            best = seconds, Border(out, copied)
    return best[1] if best else None


def _copyable(fused: FusedGraph, group: Group, value: Value, costs: LayoutCosts) -> bool:
    """Whether a plain operand could be copied into another layout: images of more than a pixel, the data or as large
    as the result."""
    if value.is_const or len(value.shape) not in (4, 5) or not fused.layout(value).is_plain:
        return False
    if value is not _data(group) and value.shape != group.anchor.out.shape:
        return False
    return not costs.layout(value).is_plain and any(d != 1 for d in value.shape[2:])


def _data(group: Group) -> Value:
    """What the convolution reads, in memory."""
    data = group.anchor.inputs[0]
    assert data is not None
    return group.source(data)

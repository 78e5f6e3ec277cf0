"""Where convolutions meet plain values: whether copies into and out of channel blocks cost less than they save.

Winograd's algorithm takes blocks alone, so a convolution between plain values may be worth a copy on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from graphopt.ir.dtypes import DType
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Value


@dataclass(frozen=True)
class LayoutCosts:
    """What the target predicts that layouts cost.

    Attributes:
        kernel: seconds of a group's best kernel in the layouts of its graph, None if no template takes it so.
        copy: seconds to bring a value into or out of channel blocks.
        block: channel block in which a convolution would read a value, 0 for none.
    """

    kernel: Callable[[FusedGraph, Group], float | None]
    copy: Callable[[Value], float]
    block: Callable[[Value], int]


@dataclass(frozen=True)
class Border:
    """Layouts of one convolution.

    Attributes:
        block: channel block of its results, 0 for plain.
        copied: plain operands that it should read from copies in blocks.
    """

    block: int
    copied: tuple[Value, ...] = ()


def cheapest_border(
    fused: FusedGraph, group: Group, block: int, wanted: bool, costs: LayoutCosts, ready: set[Value]
) -> Border | None:
    """The layouts of a convolution with the least predicted time, copies included; None if no template takes any.

    Args:
        fused: layouts as far as they are decided: those of the operands.
        group: the convolution and its epilogue.
        block: channel block that its results could have.
        wanted: whether somebody reads the results in blocks: then they have them.
        costs: the target's predictions.
        ready: operands that have a copy in blocks already.
    """
    plain = tuple(v for v in group.inputs if _copyable(fused, group, v, costs))
    operands = [(), plain] if group.anchor.inputs[0] in plain else [()]
    best: tuple[float, Border] | None = None
    for copied, out in product(operands, [block] if wanted else [0, block]):
        blocks = {v: costs.block(v) for v in copied} | dict.fromkeys(group.outputs, out)
        seconds = costs.kernel(fused.trial(blocks), group)
        if seconds is None:
            continue
        seconds += sum(costs.copy(v) for v in copied if v not in ready)
        if out and not wanted:
            seconds += sum(costs.copy(v) for v in group.outputs)
        if best is None or seconds < best[0]:
            best = seconds, Border(out, copied)
    return best[1] if best else None


def _copyable(fused: FusedGraph, group: Group, value: Value, costs: LayoutCosts) -> bool:
    """Whether a plain operand could be copied into blocks: images of more than a pixel, the data or as large as the result."""
    if value.is_const or value.dtype is not DType.f32 or len(value.shape) != 4 or fused.blocks.get(value, 0):
        return False
    if value is not group.anchor.inputs[0] and value.shape != group.anchor.out.shape:
        return False
    return costs.block(value) > 0 and any(d != 1 for d in value.shape[2:])

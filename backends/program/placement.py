"""Concat, Split and Slice without copies, where a part is one contiguous range of the whole.

That is so when every dimension that is stored outside of the axis is 1, in blocked layouts when the part begins and ends with a
block; and kernels want it to begin on a cache line. The
producer of an operand of Concat then writes into the result, and the results of Split and Slice lie in the operand. Whole and parts
share memory from the first write to the last read, see `graphopt.backends.program.plan`.

No kernel reads and writes overlapping memory through it: what is written is always a buffer, or a part of one, that nobody else
writes, and nobody reads it before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from graphopt.backends.program import open_placement
from graphopt.backends.program.open_placement import leaves
from graphopt.backends.program.plan import ALIGNMENT
from graphopt.backends.program.program import Buffer, JoinStep, ViewStep
from graphopt.ir.dims import Dim
from graphopt.ir.fused import Group
from graphopt.ir.graph import Value
from graphopt.ops.context import InferContext
from graphopt.ops.movement import slice_bounds, split_sizes
from graphopt.ops.registry import CUT, has_trait

if TYPE_CHECKING:
    from graphopt.backends.program.lowering import Lowering


def place(lowering: Lowering, group: Group) -> bool:
    """Lower a group by placing its buffers, if it is a movement that needs no copy, or fewer than its kernel would make."""
    node = group.anchor
    if (
        len(group.nodes) > 1
        or node.domain
        or not lowering.platform.plans_memory
        or not lowering.fused.options.optimizes_kernels
    ):
        return False
    if node.op == "Concat":
        return _join(lowering, group) or open_placement.join(lowering, group)
    if has_trait(node, CUT):
        return _cut(lowering, group)
    return False


@dataclass(frozen=True)
class _Part:
    """``value`` is the range of ``size`` bytes from ``start`` on of a larger tensor."""

    value: Value
    start: int
    size: int


def _join(lowering: Lowering, group: Group) -> bool:
    node = group.anchor
    assert node.graph is not None
    whole = node.out
    axis = InferContext(node, node.graph).axis(int(node.attrs["axis"]), len(whole.shape))
    parts: list[_Part] = []
    position = 0
    for value in node.inputs:
        assert value is not None
        part = _part(lowering, whole, value, axis, position)
        if part is None or part.start % ALIGNMENT:
            return False
        parts.append(part)
        extent = value.shape[axis]
        assert isinstance(extent, int)
        position += extent
    if leaves(whole):
        return False
    home = lowering.buffer(whole)
    buffers: list[Buffer | None] = []
    for i, part in enumerate(parts):
        fits = _move_in(lowering, parts, i, home)
        buffers.append(lowering.buffers[part.value] if fits else None)
    if not any(buffers):
        return False
    placed = []
    for part, buffer in zip(parts, buffers):
        placed.append(buffer or lowering.copy_into(part.value, home, part.start, lowering.fused.layout(whole)))
    lowering.out.steps.append(JoinStep(placed, home))
    return True


def _move_in(lowering: Lowering, parts: Sequence[_Part], index: int, home: Buffer) -> bool:
    """Give the buffer of a part its place in ``home``, with everything else that lies in the same memory; whether it is there."""
    part = parts[index]
    buffer = lowering.buffers.get(part.value)
    assert home.value is not None
    if buffer is None or lowering.fused.layout(part.value) != lowering.fused.layout(home.value):
        return False
    root, shift = buffer.root
    if root is home:
        return shift == part.start
    base, size = part.start - shift, root.static_bytes
    if not _is_movable(lowering, root) or size is None or base % ALIGNMENT or base < 0:
        return False
    if base + size > (home.static_bytes or 0):
        return False
    for other in parts:
        if other.start < base + size and base < other.start + other.size and other.size:
            there = lowering.buffers.get(other.value)
            if there is None or there.root != (root, other.start - base):
                return False
    root.home, root.shift = home, base
    return True


def _cut(lowering: Lowering, group: Group) -> bool:
    node = group.anchor
    assert node.graph is not None
    whole = InferContext(node, node.graph).value(0)
    axis, ranges = _ranges(group)
    if not ranges:
        return False
    parts: list[_Part] = []
    for value, first in ranges:
        part = _part(lowering, whole, value, axis, first) if isinstance(first, int) else None
        if part is None:
            return open_placement.cut(lowering, group, whole, axis, ranges)
        parts.append(part)
    source = lowering.buffers.get(whole)
    if source is None:
        return False
    root, shift = source.root
    if not _is_movable(lowering, root) or any(leaves(p.value) or (shift + p.start) % ALIGNMENT for p in parts):
        return False
    for p in parts:
        output = lowering.buffer(p.value)
        output.home, output.shift = source, p.start
        lowering.out.steps.append(ViewStep(source, output, p.start))
    return True


def _ranges(group: Group) -> tuple[int, list[tuple[Value, Dim]]]:
    """The axis that a Split or Slice cuts, its results, and at which position each begins; none if it cuts otherwise."""
    node = group.anchor
    assert node.graph is not None
    context = InferContext(node, node.graph)
    shape = context.value(0).shape
    if node.op == "Split":
        starts = accumulate(split_sizes(context), initial=0)
        found = [(value, start) for value, start in zip(node.outputs, starts) if value is not None]
        return context.axis(int(context.attr("axis")), len(shape)), [f for f in found if f[0] in group.outputs]
    bounds = slice_bounds(context)
    cut = [i for i, (b, d) in enumerate(zip(bounds, shape)) if b != (0, d, 1)]
    if len(cut) != 1 or bounds[cut[0]][2] != 1:
        return 0, []
    return cut[0], [(node.out, bounds[cut[0]][0])]


def _part(lowering: Lowering, whole: Value, part: Value, axis: int, position: int) -> _Part | None:
    """Where ``part``, ``position`` elements along ``axis`` in, lies in ``whole``; None if it is no contiguous range."""
    layout = lowering.fused.layout(whole)
    extent = part.shape[axis]
    if not all(isinstance(d, int) for d in (*whole.shape, *part.shape)) or part.dtype is not whole.dtype:
        return None
    assert isinstance(extent, int)
    block = layout.block(axis)
    if (layout.blocks and block == 1) or position % block or extent % block:
        return None
    physical = [d for d in layout.physical_shape(whole.shape) if isinstance(d, int)]
    place = layout.axes(len(whole.shape)).index(axis)
    if math.prod(physical[:place]) != 1:
        return None
    step = math.prod(physical[place + 1 :]) * ((whole.dtype.bits + 7) // 8)
    return _Part(part, position // block * step, extent // block * step)


def _is_movable(lowering: Lowering, root: Buffer) -> bool:
    """Whether a buffer's memory is planned, so that it may lie inside of another one and others inside of it."""
    return (
        lowering.written.is_planned(root)
        and root.static_bytes is not None
        and root.value is not None
        and not leaves(root.value)
    )

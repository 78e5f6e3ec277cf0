"""Memory that a kernel has to touch at least: the other axis of a roofline. (Its arithmetic: `graphopt.ops.flops`.)"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.base.program import Buffer
from graphopt.ir.fused import Group

_PICKING = frozenset(
    {"Slice", "Split", "Gather", "GatherElements", "GatherND", "Compress", "RoiAlign", "CenterCropPad"}
)
"""Operators that read a part of their first operand only."""


def kernel_bytes(group: Group, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> int | None:
    """Bytes of every operand and result once, as if caches held all that is read twice; None when a size is symbolic.

    Args:
        group: what the kernel computes; of an operator that picks elements no more is read than picked.
        inputs: buffers read, packed constants with their padding.
        outputs: buffers written.
    """
    read = [b.static_bytes for b in dict.fromkeys(inputs)]
    written = [b.static_bytes for b in dict.fromkeys(outputs)]
    sizes = [size for size in (*read, *written) if size is not None]
    if len(sizes) < len(read) + len(written):
        return None
    if group.anchor.op in _PICKING and not group.anchor.domain:
        most = sum(sizes[len(read) :])
        return sum(min(size, most) for size in sizes[: len(read)]) + most
    return sum(sizes)

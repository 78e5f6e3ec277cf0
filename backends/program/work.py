"""Memory that a kernel has to touch at least: the other axis of a roofline. (Its arithmetic: `graphopt.ops.flops`.)"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.program.program import Buffer
from graphopt.ir.fused import Group
from graphopt.ir.graph import Value
from graphopt.ops.flops import group_flops
from graphopt.ops.registry import PART, has_trait

_FLOPS, _BYTES = 4e9, 8e9
"""What a thread does a second in the generic loop nest, about: operations, and bytes read and written."""


def rough_seconds(group: Group) -> float | None:
    """About how long a thread takes for a group in the generic loop nest; None when a size is symbolic."""
    flops = group_flops(group.nodes)
    sizes = [_bytes(v) for n in group.nodes[:1] for v in n.inputs if v is not None] + [_bytes(v) for v in group.outputs]
    known = [size for size in sizes if size is not None]
    if flops is None or len(known) < len(sizes):
        return None
    return max(flops / _FLOPS, sum(known) / _BYTES)


def _bytes(value: Value) -> int | None:
    count = value.tensor.num_elements
    return None if count is None else count * value.dtype.numpy.itemsize


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
    if has_trait(group.anchor, PART):
        most = sum(sizes[len(read) :])
        return sum(min(size, most) for size in sizes[: len(read)]) + most
    return sum(sizes)

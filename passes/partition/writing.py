"""Roundings of results become part of the kernels that compute them, so that what they round never lies in memory."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir.fused import FusedGraph, Group, GroupKind
from graphopt.ir.graph import Node
from graphopt.ops.registry import CONVERTS, has_trait


def convert_while_writing(fused: FusedGraph, takes: Callable[[FusedGraph, Group], bool]) -> FusedGraph:
    """Move Casts to a narrower type that stand alone into the groups that make their operands, as epilogues.

    Partitioning has put them behind everything that takes any epilogue; this is for kernels that take no other.

    Args:
        fused: layouts aren't assigned yet; its groups are changed in place.
        takes: whether the target has a kernel for a group that converts its result.
    """
    makers = {value: group for group in fused.groups for value in group.outputs}
    absorbed: set[Node] = set()
    for group in fused.groups:
        if not _is_rounding(group):
            continue
        source = group.anchor.inputs[0]
        host = None if source is None else makers.get(source)
        if source is None or host is None or host.kind is not GroupKind.kernel or host.outputs != [source]:
            continue
        if source.escapes or len(source.uses) != 1:
            continue
        together = Group([*host.nodes, *group.nodes], host.anchor, host.kind, list(group.outputs))
        if takes(fused, together):
            host.nodes, host.outputs = together.nodes, together.outputs
            makers.update(dict.fromkeys(host.outputs, host))
            absorbed.add(group.anchor)
    fused.groups = [g for g in fused.groups if g.anchor not in absorbed]
    return fused


def _is_rounding(group: Group) -> bool:
    node = group.anchor
    if group.kind is not GroupKind.kernel or len(group.nodes) != 1 or not has_trait(node, CONVERTS):
        return False
    source = node.inputs[0]
    return source is not None and node.op == "Cast" and node.out.dtype.bits < source.dtype.bits

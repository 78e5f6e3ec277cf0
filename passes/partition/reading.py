"""Conversions of operands become part of the kernels that read them, so that what they widen never lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.fused import FusedGraph, Group, GroupKind
from graphopt.ir.graph import Node
from graphopt.ops.infer import infer_node
from graphopt.ops.registry import CONVERTS, ELEMENTWISE, has_trait

MAX_NODES = 32
"""Longest group with its prologue."""


def convert_while_reading(fused: FusedGraph, takes: Callable[[FusedGraph, Group], bool]) -> FusedGraph:
    """Move Cast and DequantizeLinear that stand alone into the groups of their readers, as prologues.

    A conversion that several groups read is computed in each of them; it keeps a kernel of its own only for those that can't. The
    graph is edited in place: every group has nodes of its own.

    Args:
        fused: layouts aren't assigned yet.
        takes: whether the target has a kernel for a group that converts operands while it reads them.
    """
    alone = {g.anchor for g in fused.groups if _is_conversion(g)}
    absorbed: set[Node] = set()
    editor = Editor(fused.graph, infer_node)
    for group in fused.groups:
        if group.kind is not GroupKind.kernel or group.anchor in alone:
            continue
        found = [n for v in group.inputs if (n := v.producer) in alone and n is not None]
        for chosen in (found, [n for n in found if n.inputs[0] is not None and n.inputs[0].is_const]):
            if not chosen or len(group.nodes) + len(chosen) > MAX_NODES:
                continue
            if has_trait(group.anchor, ELEMENTWISE) or takes(
                fused, Group([*chosen, *group.nodes], group.anchor, group.kind, group.outputs)
            ):
                own = [_own(editor, node, group) for node in chosen]
                group.nodes[:0] = own
                absorbed.update(own)
                alone -= absorbed
                break
    fused.groups = [g for g in fused.groups if g.anchor not in absorbed]
    _convert_now(fused, alone - absorbed, editor)
    return fused


def _convert_now(fused: FusedGraph, alone: set[Node], editor: Editor) -> None:
    """Constants in 16-bit floats that no kernel converts while it reads them are stored as what they become."""
    for node in list(alone):
        source = node.inputs[0]
        if node.op != "Cast" or source is None or source.data is None or source.dtype not in (DType.f16, DType.bf16):
            alone.discard(node)
            continue
        editor.replace(node.out, editor.constant(source.data.astype(node.out.dtype.numpy), node.out.name))
        editor.erase(node)
    fused.groups = [g for g in fused.groups if g.anchor not in alone]


def _is_conversion(group: Group) -> bool:
    return (
        group.kind is GroupKind.kernel
        and len(group.nodes) == 1
        and has_trait(group.anchor, CONVERTS)
        and not group.anchor.out.escapes
    )


def _own(editor: Editor, node: Node, group: Group) -> Node:
    """The conversion for a group alone: ``node`` itself if nobody else reads its result, else a copy."""
    members: Sequence[Node] = group.nodes
    if all(use.node in members for use in node.out.uses):
        return node
    copy = editor.node(
        node.op, list(node.inputs), dict(node.attrs), domain=node.domain, name=f"{node.out.name}_read", before=members[0],
        like=[node],
    )  # fmt: skip
    for use in list(node.out.uses):
        if use.node in members:
            editor.set_input(use.node, use.index, copy.out)
    return copy

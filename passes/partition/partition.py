"""From the first level to the second: cut the graph into kernels, anchors with their element-wise epilogues."""

from __future__ import annotations

from collections.abc import Collection

from graphopt.ir.dtypes import DType
from graphopt.ir.fused import FusedGraph, Group, GroupKind
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.options import DEFAULT_OPTIONS, CompileOptions
from graphopt.ops.context import broadcasts_at_run_time
from graphopt.ops.registry import (
    ANCHOR,
    CONTROL,
    CONVERTS,
    ELEMENTWISE,
    LINEAR,
    ONE_NEST,
    POOL,
    RECURRENT,
    VIEW,
    has_trait,
)
from graphopt.passes.partition.closed_set import closed_set
from graphopt.passes.partition.convexity import stays_convex
from graphopt.passes.partition.order import topological
from graphopt.passes.partition.shape_arithmetic import is_shape_arithmetic

MAX_NODES = 24
"""Longest group: bounds code size and compile time of one kernel."""


def partition(
    graph: Graph, options: CompileOptions = DEFAULT_OPTIONS, multiplied: Collection[DType] = ()
) -> FusedGraph:
    """Partition the nodes of ``graph`` into groups in execution order.

    A group is one anchor (or a first element-wise node) and element-wise nodes of the same shape after it. Nodes whose outputs are
    known as dimensions (shape arithmetic) get no kernel.

    Args:
        options: how the graph is compiled; level 0 keeps one node a group, for bisecting.
        multiplied: bytes that kernels of the target multiply as the integers that they are, where they are dequantized before.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    group_of: dict[Node, Group] = {}
    groups: list[Group] = []
    for node in graph.nodes:
        if is_shape_arithmetic(node) or node in group_of:
            continue
        host, joining = None, [node]
        if options.optimizes_kernels and _is_epilogue(node, multiplied):
            host, joining = _host(node, group_of, position, multiplied)
        if host is None:
            kind = GroupKind.kernel
            if has_trait(node, CONTROL):
                kind = GroupKind.control
            elif has_trait(node, VIEW):
                kind = GroupKind.view
            host = Group([], node, kind)
            groups.append(host)
        host.nodes += joining
        group_of.update(dict.fromkeys(joining, host))
    for group in groups:
        members = set(group.nodes)
        for node in group.nodes:
            for value in node.outputs:
                if value is not None and (value.escapes or any(u.node not in members for u in value.uses)):
                    group.outputs.append(value)
    # a group runs where its last node stood: its operands are all there by then
    groups.sort(key=lambda g: position[g.nodes[-1]])
    return FusedGraph(graph, topological(groups, group_of), options=options)


def _is_epilogue(node: Node, multiplied: Collection[DType]) -> bool:
    """Whether a node can run on the result of another one in its kernel.

    Widening 16-bit floats that lie in memory anyway is left to kernels that read the result, so that it doesn't. So is
    dequantizing, where a product reads the result and the target multiplies the integers, or a pool, which is as long as it
    takes to read its operand.
    """
    if _left_to_readers(node, multiplied):
        return False
    if (
        _widens(node)
        and node.out.uses
        and all(_may_convert(u.node) for u in node.out.uses)
        and _is_stored(node.inputs[0])
    ):
        return node.out.escapes > 0
    return has_trait(node, ELEMENTWISE) and node.op != "Identity"


def _left_to_readers(node: Node, multiplied: Collection[DType]) -> bool:
    """Whether a node dequantizes what a product or pool reads as integers; others then dequantize for themselves."""
    if not _dequantizes(node, multiplied) or node.out.escapes:
        return False
    readers = [use.node for use in node.out.uses]
    return any(has_trait(r, LINEAR) or has_trait(r, POOL) for r in readers) and all(map(_may_convert, readers))


def _widens(node: Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    return has_trait(node, CONVERTS) and source is not None and source.dtype in (DType.f16, DType.bf16)


def _dequantizes(node: Node, stored: Collection[DType]) -> bool:
    source = node.inputs[0] if node.inputs else None
    return node.op == "DequantizeLinear" and source is not None and source.dtype in stored


def _may_convert(node: Node) -> bool:
    return any(has_trait(node, trait) for trait in (ANCHOR, ELEMENTWISE, ONE_NEST))


def _is_stored(value: Value | None) -> bool:
    """Whether something reads the value that can't be in the kernel that makes it."""
    return value is not None and (
        value.escapes > 0
        or any(
            not _widens(use.node) or any(not has_trait(u.node, ELEMENTWISE) for u in use.node.out.uses)
            for use in value.uses
        )
    )


def _host(
    node: Node, group_of: dict[Node, Group], position: dict[Node, int], multiplied: Collection[DType]
) -> tuple[Group | None, list[Node]]:
    """The group that an element-wise node can join as epilogue: the latest of its producers' groups that allows it.

    Returns:
        The group, if there is one, and the nodes that join it with this one, which is the first of them.
    """
    best: Group | None = None
    joining = [node]
    uneven = broadcasts_at_run_time(node)
    for value in node.inputs:
        producer = None if value is None else value.producer
        if value is None or producer is None or producer.graph is not node.graph or producer not in group_of:
            continue
        group = group_of[producer]
        if group.anchor is producer and _left_to_readers(producer, multiplied):
            continue
        if group.kind is not GroupKind.kernel or len(group.nodes) >= MAX_NODES or not _takes_epilogue(group):
            continue
        if uneven and not has_trait(group.anchor, ELEMENTWISE):
            continue  # templates have no loops for an operand that may be broadcast
        if value.shape != node.out.shape or value is not producer.output(0):
            continue
        if best is not None and position[group.anchor] <= position[best.anchor]:
            continue
        found = [node]
        if (has_trait(group.anchor, ANCHOR) or has_trait(group.anchor, POOL)) and not _consumed_here(value, node):
            found = _diamond(value, group, group_of, position, multiplied)  # the kernels of templates have one result
        if found and stays_convex(found, group, group_of, position):
            best, joining = group, found
    return best, joining


def _consumed_here(value: Value, node: Node) -> bool:
    return not value.escapes and all(u.node is node for u in value.uses)


def _diamond(
    value: Value, group: Group, group_of: dict[Node, Group], position: dict[Node, int], multiplied: Collection[DType]
) -> list[Node]:
    """The nodes behind the result of ``group`` that would leave one result of the same type; none if there are none."""
    graph = group.anchor.graph
    assert graph is not None

    def fits(node: Node) -> bool:
        return (
            _is_epilogue(node, multiplied)
            and node not in group_of
            and sum(v is not None for v in node.outputs) == 1
            and node.out.shape == value.shape
            and not broadcasts_at_run_time(node)
        )

    def ends(node: Node) -> bool:
        return node.out.dtype is value.dtype

    return closed_set(value, graph.nodes, position, fits, ends, MAX_NODES - len(group.nodes))


def _takes_epilogue(group: Group) -> bool:
    anchor = group.anchor
    if anchor.op == "MaxPool" and anchor.output(1) is not None:
        return False
    if has_trait(anchor, RECURRENT):
        return False  # of its two or three results, each is read by the next step too
    return any(has_trait(anchor, trait) for trait in (ANCHOR, ELEMENTWISE, ONE_NEST))

"""From the first level to the second: cut the graph into kernels, anchors with their element-wise epilogues."""

from __future__ import annotations

from graphopt.errors import InternalError
from graphopt.ir.fused import FusedGraph, Group, GroupKind
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.context import broadcasts_at_run_time
from graphopt.ops.registry import ANCHOR, CONTROL, ELEMENTWISE, ONE_NEST, POOL, VIEW, has_trait

MAX_NODES = 24
"""Longest group: bounds code size and compile time of one kernel."""


def fuse_kernels(graph: Graph, *, fuse: bool = True) -> FusedGraph:
    """Partition the nodes of ``graph`` into groups in execution order.

    A group is one anchor (or a first element-wise node) and element-wise nodes of the same shape after it. Nodes whose outputs are
    known as dimensions (shape arithmetic) get no kernel.

    Args:
        fuse: False keeps one node a group, for bisecting.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    group_of: dict[Node, Group] = {}
    groups: list[Group] = []
    for node in graph.nodes:
        if is_shape_arithmetic(node):
            continue
        host = _host(node, group_of, position) if fuse and has_trait(node, ELEMENTWISE) else None
        if host is None:
            kind = GroupKind.kernel
            if has_trait(node, CONTROL):
                kind = GroupKind.control
            elif has_trait(node, VIEW):
                kind = GroupKind.view
            host = Group([], node, kind)
            groups.append(host)
        host.nodes.append(node)
        group_of[node] = host
    for group in groups:
        members = set(group.nodes)
        for node in group.nodes:
            for value in node.outputs:
                if value is not None and (value.escapes or any(u.node not in members for u in value.uses)):
                    group.outputs.append(value)
    # a group runs where its last node stood: its operands are all there by then
    groups.sort(key=lambda g: position[g.nodes[-1]])
    return FusedGraph(graph, _topological(groups, group_of))


def is_shape_arithmetic(node: Node) -> bool:
    """Whether every output is known as dimensions, so that consumers read it off the shapes."""
    outs = [v for v in node.outputs if v is not None]
    return bool(outs) and all(v.content is not None and not v.binds and not v.escapes for v in outs)


def _host(node: Node, group_of: dict[Node, Group], position: dict[Node, int]) -> Group | None:
    """The group that an element-wise node can join as epilogue: the latest of its producers' groups that allows it."""
    if node.op == "Identity":
        return None
    out = node.out
    best: Group | None = None
    uneven = broadcasts_at_run_time(node)
    for value in node.inputs:
        producer = None if value is None else value.producer
        if value is None or producer is None or producer.graph is not node.graph or producer not in group_of:
            continue
        group = group_of[producer]
        if group.kind is not GroupKind.kernel or len(group.nodes) >= MAX_NODES or not _takes_epilogue(group):
            continue
        if uneven and not has_trait(group.anchor, ELEMENTWISE):
            continue  # templates have no loops for an operand that may be broadcast
        if value.shape != out.shape or value is not producer.output(0):
            continue
        if (has_trait(group.anchor, ANCHOR) or has_trait(group.anchor, POOL)) and not _consumed_here(value, node):
            continue  # the kernels of templates have one result
        if not _independent(node, group, group_of, position):
            continue
        if best is None or position[group.anchor] > position[best.anchor]:
            best = group
    return best


def _consumed_here(value: Value, node: Node) -> bool:
    return not value.escapes and all(u.node is node for u in value.uses)


def _takes_epilogue(group: Group) -> bool:
    anchor = group.anchor
    if anchor.op == "MaxPool" and anchor.output(1) is not None:
        return False
    return any(has_trait(anchor, trait) for trait in (ANCHOR, ELEMENTWISE, ONE_NEST))


def _independent(node: Node, group: Group, group_of: dict[Node, Group], position: dict[Node, int]) -> bool:
    """Whether no operand of ``node`` from outside the group depends on the group (merging would make a cycle)."""
    members = set(group.nodes)
    first = min(position[n] for n in members)
    for value in node.inputs:
        producer = None if value is None else value.producer
        if producer is None or producer in members or producer.graph is not node.graph:
            continue
        if _reaches(producer, members, first, position, group_of):
            return False
    return True


def _reaches(
    node: Node, members: set[Node], first: int, position: dict[Node, int], group_of: dict[Node, Group]
) -> bool:
    """Whether ``node`` (or a member of its group) depends on any of ``members``."""
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        if current in members:
            return True
        if position.get(current, -1) < first and current not in group_of:
            continue
        mates = group_of[current].nodes if current in group_of else [current]
        for mate in mates:
            for value in _operands(mate):
                producer = value.producer
                if producer is not None and producer in position and producer not in seen:
                    seen.add(producer)
                    if producer in members:
                        return True
                    if position[producer] >= first or any(position[m] >= first for m in _mates(producer, group_of)):
                        stack.append(producer)
    return False


def _mates(node: Node, group_of: dict[Node, Group]) -> list[Node]:
    return group_of[node].nodes if node in group_of else [node]


def _topological(groups: list[Group], group_of: dict[Node, Group]) -> list[Group]:
    """Order groups so that operands come first (stable where nothing has to move).

    Raises:
        InternalError: groups need one another's results.
    """
    done: set[int] = set()
    begun: set[int] = set()
    ordered: list[Group] = []

    def needs(group: Group) -> list[Group]:
        found: dict[int, Group] = {}
        for node in group.nodes:
            for value in _operands(node):
                maker = None if value.producer is None else group_of.get(value.producer)
                if maker is not None and maker is not group:
                    found[id(maker)] = maker
        return list(found.values())

    for root in groups:
        stack: list[tuple[Group, bool]] = [(root, False)]
        while stack:
            group, ready = stack.pop()
            if id(group) in done:
                continue
            if ready:
                done.add(id(group))
                ordered.append(group)
                continue
            if id(group) in begun:
                raise InternalError(f"kernels need one another's results: {group.anchor.label} is in a cycle")
            begun.add(id(group))
            stack.append((group, True))
            stack.extend((g, False) for g in reversed(needs(group)) if id(g) not in done)
    return ordered


def _operands(node: Node) -> list[Value]:
    """What a node takes, and what its subgraphs read from outside."""
    operands = [v for v in node.inputs if v is not None]
    for sub in node.subgraphs:
        operands += captured(sub)
    return operands


def captured(graph: Graph) -> list[Value]:
    """Outer values that a subgraph reads, constants left out."""
    own: set[Value] = set(graph.inputs)
    found: dict[Value, None] = {}
    for node in graph.nodes:
        operands = [v for v in node.inputs if v is not None]
        for sub in node.subgraphs:
            operands += captured(sub)
        found.update({v: None for v in operands if v not in own and not v.is_const})
        own.update(v for v in node.outputs if v is not None)
    found.update({v: None for v in graph.outputs if v not in own and not v.is_const})
    return list(found)

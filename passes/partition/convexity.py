"""May nodes join a group? A group must be convex: nothing outside of it may lie on a path from a member to a member."""

from __future__ import annotations

from graphopt.ir.fused import Group
from graphopt.ir.graph import Node
from graphopt.passes.partition.operands import operands


def stays_convex(joining: list[Node], group: Group, group_of: dict[Node, Group], position: dict[Node, int]) -> bool:
    """Whether no operand of nodes from outside the group depends on the group with them (merging would make a cycle)."""
    members = {*group.nodes, *joining}
    first = min(position[n] for n in members)
    for value in (v for node in joining for v in node.inputs):
        producer = None if value is None else value.producer
        if producer is None or producer in members or producer not in position:
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
            for value in operands(mate):
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

"""An order of kernels in which operands come first."""

from __future__ import annotations

from graphopt.errors import InternalError
from graphopt.ir.fused import Group
from graphopt.ir.graph import Node
from graphopt.passes.partition.operands import operands


def topological(groups: list[Group], group_of: dict[Node, Group]) -> list[Group]:
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
            for value in operands(node):
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

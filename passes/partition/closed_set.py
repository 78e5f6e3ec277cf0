"""Which nodes behind a value can be computed where it is made, so that of all of them one result is left.

A diamond (``x * Sigmoid(x)``, or a Gelu in parts) reads a value several times and joins again. Kernels that keep results in
registers have one result, so they take all of its branches or none. The nodes from a value to where all paths from it have met
again (its post-dominator) are such a set, and the sets behind one another along a chain of diamonds are all there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush

from graphopt.ir.graph import Node, Value


def closed_set(
    value: Value,
    order: Sequence[Node],
    position: Mapping[Node, int],
    fits: Callable[[Node], bool],
    ends: Callable[[Node], bool],
    most: int,
) -> list[Node]:
    """The fewest nodes behind ``value`` outside of which only the result of the last one is used.

    No path leaves such a set and comes back, as nothing but its end is seen outside. Finding it takes time in the number of its
    nodes, not in that of the graph.

    Args:
        value: what they start from; it may be read by them only.
        order: the nodes of its graph, operands before readers.
        position: of every node in ``order``.
        fits: whether a node may be in the set.
        ends: whether a node may be the last one.
        most: the most nodes.

    Returns:
        Nodes in their order in the graph; none if no such set exists.
    """
    taken: list[Node] = []
    waiting: list[int] = []
    known: set[int] = set()

    def opens(made: Value) -> bool:
        """Whether all readers of a value can still be taken; they wait for their turn."""
        if made.escapes or len(made.uses) > 2 * most:  # a node reads it more than once, as in x * x
            return False
        for use in made.uses:
            at = position.get(use.node)
            if at is None:
                return False  # it is in a subgraph
            if at not in known:
                known.add(at)
                heappush(waiting, at)
        return len(taken) + len(waiting) <= most

    if not opens(value):
        return []
    while waiting:
        node = order[heappop(waiting)]
        if not fits(node):
            return []
        taken.append(node)
        if not waiting and ends(node):
            return taken
        if not opens(node.out):
            return []
    return []

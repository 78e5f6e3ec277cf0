"""Which nodes are functions of their operands."""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Node
from graphopt.ops.registry import RANDOM, has_trait


def is_pure(node: Node) -> bool:
    """Whether the node gives the same result for the same operands. Other domains' operators may do anything."""
    if node.domain or has_trait(node, RANDOM):
        return False
    if node.op == "Dropout":
        training = node.input(2)
        return training is None or (training.data is not None and not np.any(training.data))
    return all(is_pure(inner) for sub in node.subgraphs for inner in sub.walk())

"""Which nodes of a float16 model may be computed in float16 arithmetic, where a processor has it.

Sums of products, as far as kernels add them up accurately, and what takes one rounding: additions, products, activations made
of straight lines, averages of windows. Functions with exponentials, divisions, statistics over an axis are computed in float32,
and hand float32 to one another.
"""

from __future__ import annotations

from graphopt.ir.graph import Node
from graphopt.ops.registry import LINEAR, POOL, has_trait
from graphopt.passes.precision.operator_rules import never_rounds

_ONE_ROUNDING = frozenset(
    {"Add", "Sub", "Mul", "Sum", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish", "Resize", "Sigmoid", "Swish"}
)


_LINES = frozenset({"Relu", "Clip", "Max", "Min", "Neg", "Abs"})
"""Element-wise, rounding nothing."""


def computes_halves(node: Node) -> bool:
    """Whether it is element-wise arithmetic of which each step may be rounded to float16."""
    return not node.domain and (node.op in _LINES or (node.op in _ONE_ROUNDING and node.op != "Resize"))


def suits_halves(node: Node) -> bool:
    """Whether float16 is enough for the node's arithmetic."""
    if node.domain:
        return False
    return node.op in _ONE_ROUNDING or has_trait(node, LINEAR) or has_trait(node, POOL) or never_rounds(node)

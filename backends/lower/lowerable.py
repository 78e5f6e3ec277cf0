"""Which operators have a lowering."""

from __future__ import annotations

from graphopt.backends.lower.attention import attention_form
from graphopt.backends.lower.registry import lookup
from graphopt.ir.graph import Node
from graphopt.ops.registry import CONTROL, has_trait


def is_lowerable(node: Node) -> bool:
    """Whether the operator has a lowering of its own (or is control flow); others are expanded or refused."""
    if node.op == "Attention" and isinstance(attention_form(node), str):
        return False
    return has_trait(node, CONTROL) or lookup(node.op, node.domain) is not None

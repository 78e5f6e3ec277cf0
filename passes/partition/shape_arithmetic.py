"""Nodes that need no kernel, because their results are known as dimensions."""

from __future__ import annotations

from graphopt.ir.graph import Node


def is_shape_arithmetic(node: Node) -> bool:
    """Whether every output is known as dimensions, so that consumers read it off the shapes."""
    outs = [v for v in node.outputs if v is not None]
    return bool(outs) and all(v.content is not None and not v.binds and not v.escapes for v in outs)

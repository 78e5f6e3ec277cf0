"""Channels that are the same number for every input, other than zero: a linear layer can hold what they add in its bias."""

from __future__ import annotations

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node
from graphopt.ops.context import attr
from graphopt.ops.registry import BIAS, WHOLE_SUMS, has_trait
from graphopt.passes.fold.linear_node import LinearNode
from graphopt.passes.prune.dead.zeros import Mask, Zeros
from graphopt.rewrite.pattern import NoMatch


def movable(zeros: Zeros, node: Node) -> Mask | None:
    """Bool [input channels]: where what a channel adds to the node's result is one number an output channel.

    None for nodes that have no place for it: all but Conv without padding and Gemm, with a weight of their own.
    """
    x = node.input(0)
    if (
        not (has_trait(node, WHOLE_SUMS) and has_trait(node, BIAS))
        or x is None
        or x.is_const
        or not isinstance(x.shape[1], int)
    ):
        return None
    if node.op == "Conv" and (any(attr(node, "pads") or ()) or attr(node, "auto_pad") not in ("NOTSET", "VALID")):
        return None
    if node.op == "Gemm" and attr(node, "transA"):
        return None
    known = zeros.known(x, 1)
    if known is None:
        return None
    try:
        linear = LinearNode.of(node)
        _ = linear.bias
    except NoMatch:
        return None
    return np.asarray(known.mask & (known.value != 0))


def move(zeros: Zeros, node: Node, target: Node, channels: Mask, editor: Editor) -> int:
    """Put what the channels add into the bias, and zero into their weights. Returns the number of those that had any.

    Args:
        zeros: of the graph that holds ``node``.
        target: the same node in the graph that is changed.
        channels: bool [input channels], a part of ``movable``.
    """
    x = node.inputs[0]
    assert x is not None
    known = zeros.known(x, 1)
    assert known is not None
    linear = LinearNode.of(node)
    changed = (linear.scaled_inputs(channels.astype(np.float64)) != 0).any()
    if not changed:
        return 0
    weight = linear.scaled_inputs((~channels).astype(np.float64))
    bias = linear.bias + linear.response_to(np.where(channels, known.value, 0).astype(np.float64))
    dtype = node.out.dtype.numpy
    old, had = node.inputs[1], node.input(2)
    assert old is not None
    editor.set_input(target, 1, editor.constant(weight.astype(dtype), old.name))
    editor.set_input(target, 2, editor.constant(bias.astype(dtype), f"{old.name}_bias" if had is None else had.name))
    if node.op == "Gemm":
        editor.set_attr(target, "beta", None)
    return int(channels.sum())

"""Which channels of an operand a node doesn't read: those whose value makes no difference to what is left of its results.

Three kinds of operand axes: *passing* ones, whose channels are channels of the result, so that one that goes takes nothing
else with it; *summed* ones, where a channel is lost if what it is multiplied by is zero; and all others, which count as read.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Node, Use
from graphopt.ops.context import InferContext, attr
from graphopt.ops.linear import kept_axis, summed_axis
from graphopt.ops.reduction import reduced_axes
from graphopt.ops.registry import BROADCAST, CONVOLUTION, LINEAR, MOVEMENT, RECURRENT, REDUCE, UNARY, has_trait
from graphopt.passes.prune.dead.zero_products import nonzero_pairs
from graphopt.passes.prune.dead.zeros import Mask, Zeros, operand

_PASSING = frozenset({
    "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "BitCast", "Cast", "CastLike", "Clip", "CumProd",
    "CumSum", "DequantizeLinear", "Dropout", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample",
    "GroupNormalization", "Hardmax", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization",
    "LogSoftmax", "LpNormalization", "LpPool", "MaxPool", "MaxRoiPool", "MeanVarianceNormalization", "Pad",
    "QuantizeLinear", "RMSNormalization", "Resize", "RoiAlign", "Shape", "Softmax", "TopK",
})  # fmt: skip
"""Every axis whose channels can be removed at all is one of the results': their labelling rules freeze the others."""


def unread(z: Zeros, use: Use, axis: int) -> Mask:
    """Bool [extent]: indices along a static axis of an operand that the node doesn't read."""
    if (use, axis) not in z.unread:
        z.unread[use, axis] = _unread(z, use, axis)
    return z.unread[use, axis]


def _unread(z: Zeros, use: Use, axis: int) -> Mask:
    node, index = use.node, use.index
    value = node.inputs[index]
    assert value is not None
    extent = value.shape[axis]
    assert isinstance(extent, int)
    if _passes(node, index, axis):
        return np.ones(extent, bool)
    if has_trait(node, CONVOLUTION) and index < 2:
        return _convolved(z, node, index, axis, extent)
    if has_trait(node, LINEAR) and index < 2:
        return _partner(z, node, 1 - index, summed_axis(node, 1 - index), extent)
    if has_trait(node, RECURRENT) and (index, axis) in ((0, 2), (1, 2)):
        return _partner(z, node, 1 - index, 2, extent)
    return np.zeros(extent, bool)


def _passes(node: Node, index: int, axis: int) -> bool:
    if node.domain:
        return False
    if node.op in _PASSING or any(has_trait(node, trait) for trait in (MOVEMENT, UNARY, BROADCAST)):
        return True
    if has_trait(node, LINEAR) and index == 2:
        return True
    if has_trait(node, CONVOLUTION):
        return axis == kept_axis(node, index)
    if has_trait(node, LINEAR):
        return axis != summed_axis(node, index)
    if has_trait(node, REDUCE):
        assert node.graph is not None
        return index == 0 and axis not in reduced_axes(InferContext(node, node.graph))
    return False


def _partner(z: Zeros, node: Node, index: int, axis: int, extent: int) -> Mask:
    """Where the other operand of a product is zero."""
    value = node.inputs[index]
    assert value is not None
    if value.shape[axis] != extent:
        return np.zeros(extent, bool)
    return z.zero_slot(operand(node, index), axis)


def _convolved(z: Zeros, node: Node, index: int, axis: int, extent: int) -> Mask:
    groups = int(attr(node, "group") or 1)
    inner = summed_axis(node, 1)
    if index == 0 and axis != 1:
        return np.zeros(extent, bool)
    if index == 1 and axis != inner:
        return np.zeros(extent, bool)
    if groups == 1 or inner == 0:
        return _partner(z, node, 1 - index, inner if index == 0 else 1, extent)
    x, w = node.inputs[:2]
    assert x is not None
    assert w is not None
    if index == 1:  # position k stands for channel k of every group
        channels = x.shape[1]
        silent = z.zero(operand(node, 0), 1) if isinstance(channels, int) else np.zeros(groups * extent, bool)
        return np.asarray(silent.reshape(groups, extent).all(axis=0))
    if w.data is None:
        return np.zeros(extent, bool)
    return ~nonzero_pairs(z, node).any(axis=1).reshape(-1)

"""What sums over channels makes of known numbers (see ``zeros``): zero products leave the bias."""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Node, Use
from graphopt.ops.context import attr
from graphopt.ops.linear import kept_axis, summed_axis
from graphopt.passes.prune.dead.zeros import Facts, Known, Mask, Zeros, operand, or_none


def convolution(z: Zeros, node: Node, index: int) -> Facts:
    """An output channel is its bias where every product that it sums is zero."""
    x, w = node.inputs[:2]
    assert x is not None
    assert w is not None
    channels, shape = x.shape[1], node.out.shape
    if not isinstance(channels, int) or not isinstance(shape[1], int):
        return []
    silent = _silent_channels(z, node, ~z.zero(operand(node, 0), 1))
    bias = _bias(z, node, shape[1])
    return [None, or_none(silent & bias.mask, bias.value), *[None] * (len(shape) - 2)]


def _silent_channels(z: Zeros, node: Node, live: Mask) -> Mask:
    """Bool [output channels]: where all products with live input channels are zero."""
    w = node.inputs[1]
    assert w is not None
    transposed = node.op == "ConvTranspose"
    groups = int(attr(node, "group") or 1)
    out, inner = kept_axis(node, 1), summed_axis(node, 1)
    if w.data is None:
        extent = node.out.shape[1]
        assert isinstance(extent, int)
        rows = (
            z.zero(w, out) if isinstance(w.shape[out], int) else np.zeros(extent // (groups if transposed else 1), bool)
        )
        rows = np.tile(rows, groups) if transposed else rows
        return rows if live.any() else np.ones_like(rows)
    use = Use(node, 1)
    if groups == 1:
        return z.zero_along(use, out, {inner: live})
    if live.all() and not transposed:
        return z.zero_along(use, out, {})
    pairs = nonzero_pairs(z, node)  # [groups, output, input]
    summed = (pairs & live.reshape(groups, 1, -1)).any(axis=2)
    return ~summed.reshape(-1)


def nonzero_pairs(z: Zeros, node: Node) -> Mask:
    """Of a grouped convolution: bool [groups, output, input channel of the group]: whether any tap between them is not
    zero. Channels that are gone have none."""
    w = node.inputs[1]
    assert w is not None
    assert w.data is not None
    groups = int(attr(node, "group") or 1)
    pairs = np.asarray((w.data != 0).any(axis=tuple(range(2, w.data.ndim))))
    for axis, mask in enumerate(z.keep(Use(node, 1))):
        if mask is not None and axis < 2:
            pairs = pairs & (mask[:, None] if axis == 0 else mask)
    by_group = pairs.reshape(groups, -1, pairs.shape[1])
    return by_group.transpose(0, 2, 1) if node.op == "ConvTranspose" else by_group


def _bias(z: Zeros, node: Node, extent: int, factor: float = 1.0) -> Known:
    """What is known of a bias along the last axis of the result."""
    value = node.input(2)
    dtype = node.out.dtype.numpy
    nothing = Known(np.zeros(extent, bool), np.zeros(extent, dtype))
    if value is None or factor == 0:
        return Known(np.ones(extent, bool), np.zeros(extent, dtype))
    number = z.whole(operand(node, 2))
    if number is not None:
        known = Known(np.ones(extent, bool), np.broadcast_to(number, (extent,)))
    elif value.shape and value.shape[-1] == extent:
        known = z.known(operand(node, 2), len(value.shape) - 1) or nothing
    else:
        known = nothing
    return known if factor == 1 else Known(known.mask, np.asarray(known.value * factor, dtype))


def product(z: Zeros, node: Node, index: int) -> Facts:
    """Gemm and MatMul of at least two axes: rows and columns whose products are all zero."""
    a, b = node.inputs[:2]
    assert a is not None
    assert b is not None
    if len(a.shape) < 2 or len(b.shape) < 2:
        return []
    shape = node.out.shape
    rank = len(shape)
    row_axis, a_sum = kept_axis(node, 0), summed_axis(node, 0)
    column_axis, b_sum = kept_axis(node, 1), summed_axis(node, 1)
    facts: Facts = [None] * rank
    for axis, own, other in (
        (rank - 1, (1, column_axis, b_sum), (0, a_sum)),
        (rank - 2, (0, row_axis, a_sum), (1, b_sum)),
    ):
        if isinstance(shape[axis], int):
            silent = _silent_slices(z, node, own, other)
            facts[axis] = Known.zeros(silent, node.out.dtype.numpy)
    if node.op == "Gemm" and node.input(2) is not None:
        columns = facts[1]
        facts = [None, None]
        if columns is not None:
            bias = _bias(z, node, len(columns.mask), float(attr(node, "beta")))
            facts[1] = or_none(columns.mask & bias.mask, bias.value)
    for axis in range(rank - 2):
        facts[axis] = _batch(z, node, axis)
    return facts


def _silent_slices(z: Zeros, node: Node, own: tuple[int, int, int], other: tuple[int, int]) -> Mask:
    """Where slices of operand ``own = (index, axis, summed axis)`` meet nothing but zeros of ``other = (index, summed)``."""
    index, axis, summed = own
    value, partner = node.inputs[index], node.inputs[other[0]]
    assert value is not None
    assert partner is not None
    static = isinstance(partner.shape[other[1]], int) and isinstance(value.shape[summed], int)
    live = ~z.zero(operand(node, other[0]), other[1]) if static else None
    if live is not None and not live.any():
        extent = value.shape[axis]
        assert isinstance(extent, int)
        return np.ones(extent, bool)
    if value.data is not None and live is not None:
        return z.zero_along(Use(node, index), axis, {summed: live})
    return z.zero(operand(node, index), axis)


def _batch(z: Zeros, node: Node, axis: int) -> Known | None:
    extent = node.out.shape[axis]
    if not isinstance(extent, int) or extent == 1:
        return None
    silent = np.zeros(extent, bool)
    for index in (0, 1):
        value = node.inputs[index]
        assert value is not None
        at = axis - (len(node.out.shape) - len(value.shape))
        if at >= 0 and value.shape[at] == extent:
            silent |= z.zero(operand(node, index), at)
    return Known.zeros(silent, node.out.dtype.numpy)

"""Scales of weights: one for each output channel or one for all, and large enough for the bias to be stored in the same unit."""

from __future__ import annotations

import numpy as np

from graphopt.errors import UserError
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import attr
from graphopt.ops.linear import kept_axis
from graphopt.ops.registry import CONVOLUTION, has_trait
from graphopt.passes.quant.parameters import SMALLEST_SCALE, IntegerForm, Parameters, parameters_of

LARGEST_BIAS = 1 << 30
"""Half of what int32 holds: the other half is for the products that are added to the bias."""


def channel_axis_of(node: Node, index: int) -> int | None:
    """The axis of a product's weight that its output channels lie on; None where it has no axis of its own."""
    weight = node.input(index)
    assert weight is not None
    return kept_axis(node, index) if len(weight.shape) > 1 else None


def weight_parameters(weight: Value, axis: int | None, form: IntegerForm, least: Array | float = 0.0) -> Parameters:
    """Scales of a weight, and zero points, which are zero.

    Args:
        axis: with one scale for each of its indices; None for one scale.
        form: symmetric, so that sums need no correction that depends on data.
        least: scales are this at least. A channel of zeros gets it, or the largest scale of the others.

    Raises:
        UserError: a weight isn't finite.
    """
    assert weight.data is not None
    size = np.abs(weight.data.astype(np.float64))
    if not np.isfinite(size).all():
        raise UserError(
            f"the weight %{weight.name} holds NaN or infinity", code="not-finite", hint="leave its node out"
        )
    others = tuple(a for a in range(size.ndim) if a != axis)
    bound = size.max(axis=others) if size.size else np.zeros(() if axis is None else size.shape[axis])
    scale = bound / (form.high - form.middle)
    if not np.all(scale > 0):
        scale = np.where(scale > 0, scale, max(float(scale.max(initial=0.0)), SMALLEST_SCALE))
    scale = np.maximum(scale, np.maximum(least, SMALLEST_SCALE)).astype(np.float32)
    return Parameters(scale, parameters_of(-bound, bound, form).zero_point)


def bias_vector(node: Node) -> Array | None:
    """The constant bias of a product as a number for each output channel, None where it has none that int32 can hold."""
    bias, weight = node.input(2), node.input(1)
    if bias is None or bias.data is None or weight is None:
        return None
    if attr(node, "alpha", 1.0) not in (None, 1.0) or attr(node, "beta", 1.0) not in (None, 1.0):
        return None  # the sum isn't in the unit of the products
    channels = output_channels(node)
    if bias.data.size == channels and bias.data.shape[-1:] == (channels,):
        return bias.data.reshape(channels)
    if bias.data.size == 1:
        return np.full(channels, bias.data.reshape(-1)[0])
    return None


def output_channels(node: Node) -> int:
    """How many output channels a product's weight makes."""
    weight = node.input(1)
    assert weight is not None
    extent = weight.shape[kept_axis(node, 1)] if len(weight.shape) > 1 else 1
    assert isinstance(extent, int), "extents of constants are numbers"
    groups = int(attr(node, "group") or 1) if has_trait(node, CONVOLUTION) else 1
    return extent * groups if _by_group(node) else extent


def by_output_channel(node: Node, scale: Array) -> Array:
    """The scales of a weight, one for each output channel: those of grouped transposed convolutions are the same in each group."""
    channels = output_channels(node)
    return np.tile(scale, channels // scale.size) if scale.ndim else np.full(channels, scale)


def least_weight_scale(node: Node, bias: Array, input_scale: float, per_channel: bool) -> Array:
    """The least scales of a product's weight with which its bias stays below ``LARGEST_BIAS``."""
    least = np.abs(bias.astype(np.float64)) / (input_scale * LARGEST_BIAS)
    if not per_channel:
        found: Array = least.max(initial=0.0)
        return found
    groups = int(attr(node, "group") or 1) if _by_group(node) else 1
    folded: Array = least.reshape(groups, -1).max(axis=0)
    return folded


def quantized_bias(bias: Array, scale: Array) -> Array:
    """The bias in units of the scales, as int32."""
    found: Array = np.rint(bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int32)
    return found


def _by_group(node: Node) -> bool:
    """Whether the weight's axis of output channels holds those of one group only."""
    return has_trait(node, CONVOLUTION) and kept_axis(node, 1) == 1

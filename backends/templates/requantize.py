"""What sums of integers are multiplied with: the scales of both operands, over that of the result where it is quantized at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.formula import Formula
from graphopt.backends.base.template import Computed, packed_array
from graphopt.backends.lower.scales import has_row
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import Group
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import known_array


@dataclass(frozen=True)
class ScalesOfSums(Formula):
    """Float32 factors of sums, one an output channel: that of the weight times a number that is rounded first.

    Takes the scale of the data, that of the result if there is one, and that of the weight if there is one.

    Attributes:
        channels: output channels.
        weighted: whether the weight has a scale, one or one a channel.
        quantized: whether the result has a scale, which divides that of the data.
    """

    channels: int
    weighted: bool
    quantized: bool

    @property
    def dtype(self) -> DType:
        """float32."""
        return DType.f32

    @property
    def shape(self) -> tuple[int, ...]:
        """A factor a channel."""
        return (self.channels,)

    def __call__(self, *arrays: Array) -> Array:
        """The factors."""
        data, *others = arrays
        factor = np.float32(data.reshape(-1)[0])
        with np.errstate(over="ignore"):
            if self.quantized:
                factor = factor / np.float32(others.pop(0).reshape(-1)[0])
            weight = others[0].reshape(-1).astype(np.float32) if self.weighted else np.ones(1, np.float32)
            return np.ascontiguousarray(np.broadcast_to(weight * factor, self.shape))


def scales_of_sums(data: Value, weight: Value | None, requantize: Node | None, channels: int) -> Computed:
    """The factors as an operand.

    Args:
        data: the scale of the data.
        weight: the scale of the weight.
        requantize: a QuantizeLinear that `requantized_at_once` gave.
        channels: output channels.
    """
    step = None if requantize is None else requantize.input(1)
    values = tuple(v for v in (data, step, weight) if v is not None)
    return Computed(values, ScalesOfSums(channels, weight is not None, step is not None))


def requantized_at_once(group: Group, data: Value, weight: Value | None, bias: Value | None) -> Node | None:
    """The QuantizeLinear whose scale divides those of sums: only Relu lies in between, which doesn't mind scales.

    Args:
        group: the group.
        data: the scale of the data.
        weight: the scale of the weight.
        bias: what is added to sums.
    """
    if bias is not None and bias.dtype is not DType.i32:
        return None
    value = group.anchor.out
    for node in group.epilogue:
        if node.inputs[0] is not value or value.escapes or len(value.uses) != 1:
            return None
        if node.op == "QuantizeLinear":
            return node if has_row(node) and _stays_finite(data, weight, node) else None
        if node.op != "Relu":
            return None
        value = node.out
    return None


def _stays_finite(data: Value, weight: Value | None, requantize: Node) -> bool:
    """Whether all factors are finite: a sum of zero times infinity would be NaN."""
    of_weight = None if weight is None else known_array(weight)
    if weight is not None and of_weight is None:
        return False
    factors = scales_of_sums(data, weight, requantize, 1 if of_weight is None else of_weight.size)
    return bool(np.isfinite(packed_array(factors)).all())

"""Linear operators with constant weights as ``y[c] = sum_k W[c, k] x[k] + b[c]``: what affine folding needs of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import attr
from graphopt.ops.linear import channel_axis, kept_axis, summed_axis
from graphopt.ops.registry import CONVOLUTION, has_trait
from graphopt.rewrite.pattern import NoMatch

F64 = npt.NDArray[np.float64]
LINEAR_ATTRS = (
    "auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "output_padding", "output_shape", "alpha",
    "beta", "transA", "transB",
)  # fmt: skip


@dataclass(frozen=True)
class LinearNode:
    """A Conv, ConvTranspose, Gemm or MatMul node with constant weight, and constant bias if it has one."""

    node: Node

    @staticmethod
    def of(node: Node) -> LinearNode:
        """The view of a node.

        Raises:
            NoMatch: weight or bias is computed, shared with other nodes, or not floating point.
        """
        weight, bias = node.input(1), node.input(2)
        if weight is None or weight.data is None or (bias is not None and bias.data is None):
            raise NoMatch("the weight or the bias is not constant", weight if bias is None else bias)
        if not weight.dtype.is_float:
            raise NoMatch("the weight is not floating point", weight)
        if len(weight.uses) > 1 or weight.escapes:
            raise NoMatch("the weight is shared with another node", weight)
        if node.op == "MatMul" and len(weight.shape) != 2:
            raise NoMatch("the weight is not a matrix", weight)
        return LinearNode(node)

    @property
    def weight(self) -> F64:
        """The weight in double precision."""
        return _wide(self.node.inputs[1])

    @property
    def group(self) -> int:
        """Convolution groups."""
        return int(attr(self.node, "group") or 1)

    @property
    def out_channels(self) -> int:
        """Extent of the channel axis of the result."""
        extent = self.weight_shape[kept_axis(self.node, 1)]
        return extent * self.group if self.node.op == "ConvTranspose" else extent

    @property
    def in_channels(self) -> int:
        """Extent of the channel axis of the data."""
        extent = self.weight_shape[summed_axis(self.node, 1)]
        return extent * self.group if self.node.op == "Conv" else extent

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Static shape of the weight."""
        weight = self.node.inputs[1]
        assert weight is not None
        return weight.tensor.static_shape

    @property
    def channel_axis(self) -> int:
        """Axis of the result that the weight's output channels lie on, counted from the front."""
        return channel_axis(self.node)

    @property
    def bias(self) -> F64:
        """Bias by output channel, zeros if there is none.

        Raises:
            NoMatch: Gemm's C varies along the rows.
        """
        value = self.node.input(2)
        if value is None:
            return np.zeros(self.out_channels)
        if has_trait(self.node, CONVOLUTION):
            return _wide(value)
        flat = per_channel(_array(value), self.out_channels, len(self.node.out.shape), self.channel_axis)
        if flat is None:
            raise NoMatch("the bias is not a number per output channel", value)
        return flat * (float(attr(self.node, "beta")) if self.node.op == "Gemm" else 1.0)

    def scaled_outputs(self, scale: F64) -> F64:
        """The weight with output channel ``c`` multiplied by ``scale[c]``."""
        w = self.weight
        if self.node.op == "ConvTranspose":
            grouped = w.reshape(self.group, w.shape[0] // self.group, *w.shape[1:])
            return (grouped * scale.reshape(self.group, 1, w.shape[1], *[1] * (w.ndim - 2))).reshape(w.shape)
        return w * _along(scale, kept_axis(self.node, 1), w.ndim)

    def scaled_inputs(self, scale: F64) -> F64:
        """The weight with input channel ``k`` multiplied by ``scale[k]``."""
        w = self.weight
        if self.node.op == "Conv":
            per_group = scale.reshape(self.group, 1, w.shape[1], *[1] * (w.ndim - 2))
            return (w.reshape(self.group, w.shape[0] // self.group, *w.shape[1:]) * per_group).reshape(w.shape)
        return w * _along(scale, summed_axis(self.node, 1), w.ndim)

    def response_to(self, shift: F64) -> F64:
        """The result by output channel for an input of ``shift[k]`` all over channel ``k``, without bias or padding.

        Not defined for ConvTranspose, whose border positions sum fewer taps.
        """
        w = self.scaled_inputs(shift)
        if self.node.op == "Conv":
            return np.asarray(w.reshape(w.shape[0], -1).sum(axis=1))
        alpha = float(attr(self.node, "alpha")) if self.node.op == "Gemm" else 1.0
        return np.asarray(alpha * w.sum(axis=summed_axis(self.node, 1)))

    def rebuilt(self, e: Editor, data: Value, weight: F64, bias: F64, *, like: Sequence[Node] = ()) -> Value:
        """A node with the new weight and bias (left out where it was and is zero); MatMul with a bias becomes Gemm.

        Args:
            like: the nodes that it replaces; the rule's matched nodes when empty.
        """
        node, dtype = self.node, self.node.out.dtype.numpy
        attrs = dict(node.attrs)
        op = node.op
        old = node.inputs[1]
        assert old is not None
        inputs: list[Value | None] = [data, e.constant(weight.astype(dtype), old.name)]
        if node.input(2) is not None or bool(np.any(bias)):
            had = node.input(2)
            inputs.append(e.constant(bias.astype(dtype), had.name if had is not None else f"{old.name}_bias"))
        if op == "MatMul" and len(inputs) == 3:
            op = "Gemm"
        if op == "Gemm":
            attrs.pop("beta", None)
        return e.node(op, inputs, attrs, like=like).out

    def require_fit(self, *arrays: F64) -> None:
        """Refuse new weights beyond the range of the element type: infinity times 0 is NaN where there was a number.

        Raises:
            NoMatch: a finite number in double precision that is none in the type of the result.
        """
        dtype = self.node.out.dtype.numpy
        with np.errstate(over="ignore"):
            lost = any(np.any(np.isfinite(a) & ~np.isfinite(a.astype(dtype))) for a in arrays)
        if lost:
            raise NoMatch("the folded weights overflow", self.node)

    def require_bias(self) -> None:
        """Refuse where the result can't have a bias.

        Raises:
            NoMatch: a MatMul whose data is not a matrix.
        """
        data = self.node.inputs[0]
        assert data is not None
        if self.node.op == "MatMul" and len(data.shape) != 2:
            raise NoMatch("a batched MatMul has no bias", self.node)


def _along(numbers: F64, axis: int, rank: int) -> F64:
    """One number an index of ``axis``, in a shape that broadcasts to a tensor of ``rank`` axes."""
    return numbers.reshape([-1 if i == axis else 1 for i in range(rank)])


def per_channel(array: Array, channels: int, rank: int, axis: int) -> F64 | None:
    """A constant that broadcasts as one number per channel, as such; None if it varies elsewhere or widens."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,))


def _array(value: Value | None) -> Array:
    assert value is not None
    assert value.data is not None
    return value.data


def _wide(value: Value | None) -> F64:
    return _array(value).astype(np.float64)

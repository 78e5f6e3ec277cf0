"""Layers with constant weights seen as ``y = W x + b`` over rows: what statistics and least squares are taken of.

A convolution's row is the patch under its window; a transposed convolution multiplies the pixels themselves and adds up
the products afterwards, so its rows are pixels, and its results are products, not output pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Graph, Node, Use, Value
from graphopt.ops.context import InferContext, attr
from graphopt.ops.conv import window_of
from graphopt.ops.registry import CONVOLUTION, LINEAR, has_trait

Rows = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Picks = npt.NDArray[np.int64]

FLOATS = (DType.f16, DType.f32, DType.f64)


@dataclass(frozen=True)
class LinearLayer:
    """One layer.

    Attributes:
        node: Conv, ConvTranspose, Gemm, or MatMul with one constant matrix.
        weight: the operand that holds W.
        data: index of the operand that holds x.
        groups: G; W is [G, M, K] as a matrix.
        outs: M, results a group (for ConvTranspose channels x taps).
        ins: K, the length of a group's rows: channels x taps, in the order of the weight's inner axes.
        in_axis: axis of x that holds the channels, from the front for convolutions, else from the back.
        out_axis: the same for y.
    """

    node: Node
    weight: Use
    data: int
    groups: int
    outs: int
    ins: int
    in_axis: int
    out_axis: int

    @property
    def x(self) -> Value:
        """What the weights multiply."""
        value = self.node.inputs[self.data]
        assert value is not None
        return value

    @property
    def w(self) -> Value:
        """The weights."""
        value = self.node.inputs[self.weight.index]
        assert value is not None
        return value

    @property
    def channels_out(self) -> int:
        """Output channels of the layer."""
        return self.groups * self.outs // (self._taps if self.node.op == "ConvTranspose" else 1)

    @property
    def _taps(self) -> int:
        return prod(self._kernel) if has_trait(self.node, CONVOLUTION) else 1

    @property
    def _kernel(self) -> tuple[int, ...]:
        assert self.w.data is not None
        return self.w.data.shape[2:]

    @property
    def gives_products(self) -> bool:
        """Whether results of rows are summed into output pixels afterwards (ConvTranspose)."""
        return self.node.op == "ConvTranspose"

    # -- weights ------------------------------------------------------------------------------------------------
    def matrix(self, weight: Array) -> Matrix:
        """A weight array as [G, M, K] in float64. A Gemm's alpha is not part of it."""
        w: Matrix = np.asarray(weight, np.float64)
        if self.node.op == "Conv":
            return w.reshape(self.groups, self.outs, self.ins)
        if self.node.op == "ConvTranspose":
            columns: Matrix = w.reshape(self.groups, self.ins, self.outs)
            return np.swapaxes(columns, 1, 2)
        return (w if self.rows_first else w.T).reshape(1, self.outs, self.ins)

    def array(self, matrix: Matrix, like: Array) -> Array:
        """Inverse of ``matrix``: an array of the shape and dtype of ``like``."""
        if has_trait(self.node, CONVOLUTION):
            turned = matrix if self.node.op == "Conv" else matrix.transpose(0, 2, 1)
        else:
            turned = matrix[0] if self.rows_first else matrix[0].T
        return np.ascontiguousarray(turned.reshape(like.shape).astype(like.dtype))

    @property
    def rows_first(self) -> bool:
        """Whether a stored matrix is [M, K] rather than [K, M]."""
        left = self.weight.index == 0
        if self.node.op == "Gemm":
            return left != bool(attr(self.node, "transA" if left else "transB"))
        return left

    # -- rows ---------------------------------------------------------------------------------------------------
    def count(self, x: Array) -> int:
        """How many rows an array of x has."""
        if self.node.op == "Conv":
            return int(x.shape[0]) * prod(self._window(x)[1])
        return int(x.size // x.shape[self.in_axis]) if x.size else 0

    def rows(self, x: Array, picks: Picks | None = None) -> Rows:
        """Rows of x as float32 [G, n, K].

        Args:
            picks: which rows, by position in the order batch, then space; all when None.
        """
        if self.node.op == "Conv":
            return self._patches(x, picks)
        return self._channel_rows(x, self.in_axis, self.groups, picks)

    def results(self, y: Array, picks: Picks | None = None) -> Rows:
        """The same rows of an array of y, as [G, n, M]; not for layers that give products."""
        assert not self.gives_products
        return self._channel_rows(y, self.out_axis, self.groups, picks)

    def _channel_rows(self, array: Array, axis: int, groups: int, picks: Picks | None) -> Rows:
        flat = np.moveaxis(np.asarray(array), axis, -1)
        flat = flat.reshape(-1, flat.shape[-1])
        chosen = flat if picks is None else flat[picks]
        split = chosen.astype(np.float32, copy=False).reshape(len(chosen), groups, flat.shape[-1] // groups)
        return np.ascontiguousarray(split.transpose(1, 0, 2))

    def _patches(self, x: Array, picks: Picks | None) -> Rows:
        kernel = self._kernel
        window, out = self._window(x)
        pads = [(0, 0), (0, 0), *((int(b), int(e)) for b, e in window)]  # type: ignore[call-overload]
        if any(b < 0 or e < 0 for b, e in pads):  # negative padding crops
            crop = tuple(slice(max(0, -b), d - max(0, -e)) for (b, e), d in zip(pads, x.shape))
            x, pads = x[crop], [(max(0, b), max(0, e)) for b, e in pads]
        padded = np.pad(np.asarray(x, np.float32), pads)
        spatial = len(kernel)
        strides = attr(self.node, "strides") or [1] * spatial
        dilations = attr(self.node, "dilations") or [1] * spatial
        reach = tuple((k - 1) * int(d) + 1 for k, d in zip(kernel, dilations))
        view = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + spatial)))
        steps: list[slice] = [slice(None, None, int(step)) for step in (1, 1, *strides, *dilations)]
        view = view[tuple(steps)]
        batch, channels = x.shape[:2]
        n = batch * prod(out)
        sample, *where = np.unravel_index(np.arange(n) if picks is None else picks, (batch, *out))
        chosen: tuple[Any, ...] = (sample, slice(None), *where)
        patches = view[chosen]  # [n, channels, *kernel]
        split = patches.reshape(len(patches), self.groups, channels // self.groups * prod(kernel))
        return np.ascontiguousarray(split.transpose(1, 0, 2))

    def _window(self, x: Array) -> tuple[list[tuple[object, object]], tuple[int, ...]]:
        """Padding an axis and output extents for an array of x."""
        graph = self.node.graph
        assert graph is not None
        window = window_of(InferContext(self.node, graph), self._kernel, tuple(int(d) for d in x.shape[2:]))
        out = []
        for axis, extent in enumerate(x.shape[2:]):
            extent_out = window.out_extent(axis, int(extent))
            assert isinstance(extent_out, int)
            out.append(max(extent_out, 0))
        return list(zip(window.pads_begin, window.pads_end)), tuple(out)


def linear(node: Node) -> LinearLayer | None:
    """The node as a linear layer, None when it is none: another operator, no constant weights, no floats."""
    if not has_trait(node, LINEAR):
        return None
    first, second = node.input(0), node.input(1)
    if first is None or second is None or first.is_const == second.is_const:
        return None
    index = 0 if first.is_const else 1
    weight, x = (first, second) if index == 0 else (second, first)
    assert weight.data is not None
    if weight.dtype not in FLOATS or x.dtype not in FLOATS or weight.data.size == 0:
        return None
    shape = weight.data.shape
    if has_trait(node, CONVOLUTION):
        if index == 0:
            return None
        groups = int(attr(node, "group") or 1)
        taps = prod(shape[2:])
        if node.op == "Conv":
            outs, ins = shape[0] // groups, shape[1] * taps
        else:
            outs, ins = shape[1] * taps, shape[0] // groups
        return LinearLayer(node, Use(node, 1), 0, groups, outs, ins, 1, 1)
    if len(shape) != 2 or len(x.shape) < (1 if index == 1 else 2):
        return None
    if node.op == "Gemm":
        turned = bool(attr(node, "transA" if index == 0 else "transB"))
        x_turned = bool(attr(node, "transB" if index == 0 else "transA"))
        outs, ins = shape if (index == 0) != turned else shape[::-1]
        in_axis = -2 if (index == 0) != x_turned else -1
    else:
        outs, ins = shape if index == 0 else shape[::-1]
        in_axis = -2 if index == 0 else -1
    return LinearLayer(node, Use(node, index), 1 - index, 1, outs, ins, in_axis, -2 if index == 0 else -1)


def linear_layers(graph: Graph) -> dict[str, LinearLayer]:
    """Every linear layer of the outermost graph by node name, in graph order."""
    found = {node.name: linear(node) for node in graph.nodes}
    return {name: layer for name, layer in found.items() if layer is not None}

"""Small networks with rows, columns, biases and scales of zero strewn in, for tests of dead channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Graph, Value
from graphopt.passes.canonical.dead_code import DeadCode
from graphopt.rewrite.passes import PassContext
from tests.support.graphs import new_graph

BLOCKS = (
    "conv", "conv", "padded", "grouped", "depthwise", "deconv", "norm", "relu", "curve", "scale", "shift", "residual", "concat",
    "split", "slice", "gather", "shuffle", "pool", "pad", "resize", "gate", "instance", "quantised", "minimum", "matmul",
)  # fmt: skip
"""Names of the layers that ``network`` knows."""


class Weights:
    """Seeded weights; about a third of their channels are zero, in either direction."""

    def __init__(self, seed: int, editor: Editor) -> None:
        self.rng = np.random.default_rng(seed)
        self.editor = editor

    def constant(self, array: Array) -> Value:
        """As a constant of the graph."""
        return self.editor.constant(np.asarray(array, np.float32), "w")

    def kernel(self, *shape: int) -> Value:
        """With zeros along both of the first two axes."""
        data = self.rng.standard_normal(shape)
        for axis in (0, 1):
            gone = self.rng.random(shape[axis]) < 0.35
            data *= np.where(gone, 0, 1).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return self.constant(data)

    def vector(self, *shape: int) -> Value:
        """Zeros, ones, minus ones and anything."""
        picks = self.rng.integers(0, 4, shape)
        return self.constant(
            np.choose(picks, [np.zeros(shape), np.ones(shape), -np.ones(shape), self.rng.standard_normal(shape)])
        )

    def positive(self, *shape: int) -> Value:
        """Variances."""
        return self.constant(self.rng.random(shape) + 0.5)


def network(blocks: Sequence[str], seed: int, channels: int = 8) -> Graph:
    """``x: f32[2, 3, 6, 6]`` through a convolution, the blocks, a global mean and a Gemm."""
    graph, editor, x = new_graph(2, 3, 6, 6)
    w = Weights(seed, editor)
    value = editor.node("Conv", [x, w.kernel(channels, 3, 1, 1), w.vector(channels)]).out
    for block in blocks:
        value = _block(block, value, editor, w)
    mean = editor.node("GlobalAveragePool", [value]).out
    flat = editor.node("Flatten", [mean]).out
    count = int(value.shape[1])  # type: ignore[arg-type]
    out = editor.node("Gemm", [flat, w.kernel(5, count), w.vector(5)], {"transB": 1}).out
    editor.set_output(graph, 0, out)
    DeadCode().run(graph, PassContext())
    return graph


def _block(kind: str, x: Value, e: Editor, w: Weights) -> Value:
    n, height = int(x.shape[1]), int(x.shape[2])  # type: ignore[arg-type]
    pair = n - n % 2
    match kind:
        case "conv":
            return e.node("Conv", [x, w.kernel(8, n, 1, 1), w.vector(8)]).out
        case "padded":
            return e.node("Conv", [x, w.kernel(8, n, 3, 3)], {"pads": [1, 1, 1, 1]}).out
        case "grouped" if n % 2 == 0:
            return e.node("Conv", [x, w.kernel(8, n // 2, 1, 1), w.vector(8)], {"group": 2}).out
        case "depthwise":
            return e.node("Conv", [x, w.kernel(n, 1, 3, 3), w.vector(n)], {"group": n, "pads": [1, 1, 1, 1]}).out
        case "deconv":
            group = 2 if n % 2 == 0 else 1
            return e.node("ConvTranspose", [x, w.kernel(n, 8 // group, 1, 1), w.vector(8)], {"group": group}).out
        case "norm":
            return e.node("BatchNormalization", [x, w.vector(n), w.vector(n), w.vector(n), w.positive(n)]).out
        case "relu":
            return e.node("Relu", [x]).out
        case "curve":
            return e.node(["Sigmoid", "HardSwish", "Elu", "Cos", "Tanh", "Gelu"][int(w.rng.integers(6))], [x]).out
        case "scale":
            return e.node("Mul", [x, w.vector(n, 1, 1)]).out
        case "shift":
            return e.node("Add", [w.vector(1, n, 1, 1), x]).out
        case "residual":
            other = e.node("Conv", [x, w.kernel(n, n, 1, 1), w.vector(n)]).out
            return e.node("Add", [x, e.node("Relu", [other]).out]).out
        case "concat":
            other = e.node("Conv", [x, w.kernel(4, n, 1, 1), w.vector(4)]).out
            return e.node("Concat", [other, x], {"axis": 1}).out
        case "split" if n >= 4:
            sizes = e.constant(np.asarray([n // 2, n - n // 2], np.int64), "sizes")
            a, b = e.node("Split", [x, sizes], {"axis": 1}, outputs=2).outputs
            assert a is not None
            assert b is not None
            return a if w.rng.random() < 0.5 else e.node("Concat", [e.node("Relu", [b]).out, a], {"axis": 1}).out
        case "slice" if n > 3:
            bounds = [e.constant(np.asarray([v], np.int64), "bound") for v in (1, n - 1, 1)]
            return e.node("Slice", [x, *bounds]).out
        case "gather":
            places = e.constant(w.rng.integers(0, n, n), "places")
            return e.node("Gather", [x, places], {"axis": 1}).out
        case "shuffle" if pair == n:
            shape = [2, 2, n // 2, height, height]
            split = e.node("Reshape", [x, e.constant(np.asarray(shape, np.int64), "shape")]).out
            turned = e.node("Transpose", [split], {"perm": [0, 2, 1, 3, 4]}).out
            return e.node("Reshape", [turned, e.constant(np.asarray([2, n, height, height], np.int64), "shape")]).out
        case "pool":
            op = "MaxPool" if w.rng.random() < 0.5 else "AveragePool"
            return e.node(op, [x], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}).out
        case "pad":
            pads = e.constant(np.asarray([0, 0, 1, 0, 0, 0, 0, 1], np.int64), "pads")
            filler = e.constant(np.asarray(w.rng.integers(0, 2), np.float32), "filler")
            cut = [e.constant(np.asarray(v, np.int64), "cut") for v in ([0, 0], [height, height], [2, 3])]
            return e.node("Slice", [e.node("Pad", [x, pads, filler]).out, *cut]).out
        case "resize":
            scales = e.constant(np.asarray([1, 1, 2, 2], np.float32), "scales")
            return e.node("Resize", [x, None, scales], {"mode": "linear"}).out if height < 12 else x
        case "gate":
            squeezed = e.node("GlobalAveragePool", [x]).out
            hidden = e.node("Relu", [e.node("Conv", [squeezed, w.kernel(4, n, 1, 1), w.vector(4)]).out]).out
            gate = e.node("HardSigmoid", [e.node("Conv", [hidden, w.kernel(n, 4, 1, 1), w.vector(n)]).out]).out
            return e.node("Mul", [x, gate]).out
        case "instance":
            return e.node("InstanceNormalization", [x, w.vector(n), w.vector(n)]).out
        case "quantised":
            scale = e.constant(np.asarray(0.05, np.float32), "scale")
            point = e.constant(np.asarray(w.rng.integers(0, 2) * 7, np.int8), "point")
            return e.node("DequantizeLinear", [e.node("QuantizeLinear", [x, scale, point]).out, scale, point]).out
        case "minimum":
            return e.node("Min", [x, w.vector(n, 1, 1)]).out
        case "matmul":
            last = e.node("Transpose", [x], {"perm": [0, 2, 3, 1]}).out
            return e.node("Transpose", [e.node("MatMul", [last, w.kernel(n, 8)]).out], {"perm": [0, 3, 1, 2]}).out
    return x

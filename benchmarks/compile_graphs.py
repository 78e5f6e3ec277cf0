"""Graphs of any number of nodes for measuring compilation: one generator a form, seeded, with small tensors.

The number of nodes is that of the file, met to within one layer of the form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

CHANNELS = 16


class Writer:
    """Collects nodes and constants of a model."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def __len__(self) -> int:
        return len(self.nodes)

    def constant(self, array: Any) -> str:
        """The name of a new initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int) -> str:
        """A new initializer of random float32."""
        scale = 1 / max(float(np.sqrt(np.prod(shape[1:]))), 1.0)
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def ints(self, *items: int) -> str:
        """A new initializer of int64."""
        return self.constant(np.array(items, np.int64))

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The first output of a new node."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def model(self, shape: Sequence[int | str], *outputs: str, rank: int | None = None) -> ModelProto:
        """The model of all nodes, with the input ``x``; ``rank`` of the outputs, that of the input when None."""
        unknown = [None] * (len(shape) if rank is None else rank)
        graph = helper.make_graph(
            self.nodes,
            "compile_time",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, unknown) for name in outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(count: int) -> ModelProto:
    """Convolutions, element-wise operators and poolings, one after the other."""
    w, x = Writer(), "x"
    weights = [w.weight(CHANNELS, CHANNELS, 1, 1) for _ in range(4)]
    scale, shift = w.weight(CHANNELS, 1, 1), w.weight(CHANNELS, 1, 1)
    for i in range(count):
        kind = i % 8
        if kind in (0, 4):
            x = w.op("Conv", x, weights[i % len(weights)])
        elif kind == 6:
            x = w.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif kind in (2, 5):
            x = w.op("Mul" if kind == 2 else "Add", x, scale if kind == 2 else shift)
        else:
            x = w.op(("Relu", "Sigmoid", "Tanh")[i % 3], x)
    return w.model((1, CHANNELS, 8, 8), x)


def residual(count: int) -> ModelProto:
    """Blocks of two convolutions around which the operand is added again, as in ResNet."""
    w, x = Writer(), "x"
    weights = [w.weight(CHANNELS, CHANNELS, 3, 3) for _ in range(4)]
    while len(w) < count:
        y = w.op("Relu", w.op("Conv", x, weights[len(w) % 4], pads=[1, 1, 1, 1]))
        y = w.op("Conv", y, weights[(len(w) + 1) % 4], pads=[1, 1, 1, 1])
        x = w.op("Relu", w.op("Add", y, x))
    return w.model((1, CHANNELS, 8, 8), x)


def fan_out(count: int) -> ModelProto:
    """One value with ``count / 2`` consumers, whose results are added up pairwise."""
    w = Writer()
    x = w.op("Relu", "x")
    level = [w.op(("Sin", "Cos", "Exp")[i % 3], w.op("Mul", x, w.weight(1, 64))) for i in range(count // 3)]
    while len(level) > 1:
        level = [
            w.op("Add", *level[i : i + 2]) if len(level[i : i + 2]) == 2 else level[i] for i in range(0, len(level), 2)
        ]
    return w.model((4, 64), level[0])


def constants(count: int) -> ModelProto:
    """A constant of its own for every node that takes one."""
    w, x = Writer(), "x"
    while len(w) < count:
        x = w.op("Tanh", w.op("Add", w.op("MatMul", x, w.weight(32, 32)), w.weight(32)))
        x = w.op("Relu", w.op("Mul", x, w.weight(4, 1)))
    return w.model((4, 32), x)


def kernels(count: int) -> ModelProto:
    """Layers of which no two have the same shapes: a kernel each."""
    w, x, width = Writer(), "x", 8
    while len(w) < count:
        step = len(w) // 3
        after = 8 + (step * 7) % 61
        rows = 1 + step // 61
        x = w.op("MatMul", x, w.weight(width, after))
        x = w.op("Relu", x)
        x = w.op("Concat", x, w.weight(rows % 5 + 1, after), axis=0) if step % 3 == 0 else w.op("Neg", x)
        width = after
    return w.model((2, 8), x)


def transformer(count: int) -> ModelProto:
    """Encoder layers with unknown batch and length; every reshape computes its target as exporters write it."""
    w, x = Writer(), "x"
    heads, size = 4, 8
    width = heads * size
    zero, one, axis = w.constant(np.int64(0)), w.constant(np.int64(1)), w.ints(0)
    head_count, head_size, whole = w.ints(heads), w.ints(size), w.ints(width)

    def extent(value: str, index: str) -> str:
        return w.op("Unsqueeze", w.op("Gather", w.op("Shape", value), index, axis=0), axis)

    def split(value: str) -> str:
        target = w.op("Concat", extent(value, zero), extent(value, one), head_count, head_size, axis=0)
        return w.op("Transpose", w.op("Reshape", value, target), perm=[0, 2, 1, 3])

    def norm(value: str) -> str:
        mean = w.op("ReduceMean", value, axes=[-1])
        apart = w.op("Sub", value, mean)
        variance = w.op("ReduceMean", w.op("Pow", apart, w.constant(np.float32(2))), axes=[-1])
        root = w.op("Sqrt", w.op("Add", variance, w.constant(np.float32(1e-5))))
        return w.op("Add", w.op("Mul", w.op("Div", apart, root), w.weight(width)), w.weight(width))

    def linear(value: str, before: int, after: int) -> str:
        return w.op("Add", w.op("MatMul", value, w.weight(before, after)), w.weight(after))

    while len(w) < count:
        q, k, v = (split(linear(x, width, width)) for _ in range(3))
        scores = w.op("Div", w.op("MatMul", q, w.op("Transpose", k, perm=[0, 1, 3, 2])), w.constant(np.float32(8**0.5)))
        mixed = w.op("Transpose", w.op("MatMul", w.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        target = w.op("Concat", extent(mixed, zero), extent(mixed, one), whole, axis=0)
        x = norm(w.op("Add", x, linear(w.op("Reshape", mixed, target), width, width)))
        hidden = linear(x, width, 2 * width)
        half = w.op("Mul", hidden, w.constant(np.float32(0.5)))
        erf = w.op("Erf", w.op("Div", hidden, w.constant(np.float32(2**0.5))))
        gelu = w.op("Mul", half, w.op("Add", erf, w.constant(np.float32(1))))
        x = norm(w.op("Add", x, linear(gelu, 2 * width, width)))
    return w.model(("batch", "length", width), x)


def detector(count: int) -> ModelProto:
    """A pyramid of convolutions over an image of unknown size; heads whose outputs are reshaped by computed extents and joined."""
    w = Writer()
    first, second, third = (w.constant(np.int64(i)) for i in (0, 2, 3))
    axis = w.ints(0)
    anchors, classes = 3, 4

    def conv(value: str, before: int, after: int, window: int = 3, stride: int = 1) -> str:
        pad = [window // 2] * 4
        return w.op(
            "Conv", value, w.weight(after, before, window, window), w.weight(after), pads=pad, strides=[stride] * 2
        )

    def extent(value: str, index: str) -> str:
        return w.op("Unsqueeze", w.op("Gather", w.op("Shape", value), index, axis=0), axis)

    def head(value: str, depth: int) -> str:
        for _ in range(depth):
            value = w.op("Relu", conv(value, CHANNELS, CHANNELS))
        value = conv(value, CHANNELS, anchors * classes)
        n, h, width = extent(value, first), extent(value, second), extent(value, third)
        target = w.op("Concat", n, w.ints(anchors), w.ints(classes), h, width, axis=0)
        value = w.op("Transpose", w.op("Reshape", value, target), perm=[0, 3, 4, 1, 2])
        rows = w.op("Mul", w.op("Mul", h, width), w.ints(anchors))
        return w.op("Reshape", value, w.op("Concat", n, rows, w.ints(classes), axis=0))

    x = w.op("Relu", conv("x", 3, CHANNELS, 3, 2))
    depth = max((count - 5 * 60) // (5 * 5), 1)
    levels = []
    for _ in range(5):
        x = w.op("Relu", conv(x, CHANNELS, CHANNELS, 3, 2))
        for _ in range(depth):
            y = conv(w.op("Relu", conv(x, CHANNELS, CHANNELS, 1)), CHANNELS, CHANNELS)
            x = w.op("Relu", w.op("Add", x, y))
        levels.append(x)
    merged, pyramid = levels[-1], [levels[-1]]
    for finer in reversed(levels[:-1]):
        size = w.op("Concat", w.op("Slice", w.op("Shape", merged), w.ints(0), w.ints(2), axis),
                    extent(finer, second), extent(finer, third), axis=0)  # fmt: skip
        wider = w.op(
            "Resize",
            merged,
            "",
            "",
            size,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        merged = w.op("Add", conv(finer, CHANNELS, CHANNELS, 1), wider)
        pyramid.append(merged)
    boxes = w.op("Concat", *[head(level, 4) for level in pyramid], axis=1)
    scores = w.op("Sigmoid", w.op("Concat", *[head(level, 4) for level in pyramid], axis=1))
    return w.model((1, 3, "height", "width"), boxes, scores, rank=3)


FORMS: dict[str, Callable[[int], ModelProto]] = {
    "chain": chain,
    "residual": residual,
    "fan-out": fan_out,
    "constants": constants,
    "kernels": kernels,
    "transformer": transformer,
    "detector": detector,
}


def write(form: str, count: int, path: str) -> int:
    """Write a model; returns how many nodes it has."""
    model = FORMS[form](count)
    onnx.save_model(model, path)
    return len(model.graph.node)

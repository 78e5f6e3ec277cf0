"""Nets in any float type with random weights: MobileNetV3 and ViT for images, encoders like BERT, VGG's last layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MOBILE = (
    # kernel, widened channels, channels out, squeeze-and-excite, activation, stride: MobileNetV3-Small (Howard et al., 2019)
    (3, 16, 16, True, "Relu", 2), (3, 72, 24, False, "Relu", 2), (3, 88, 24, False, "Relu", 1), (5, 96, 40, True, "HardSwish", 2),
    (5, 240, 40, True, "HardSwish", 1), (5, 240, 40, True, "HardSwish", 1), (5, 120, 48, True, "HardSwish", 1),
    (5, 144, 48, True, "HardSwish", 1), (5, 288, 96, True, "HardSwish", 2), (5, 576, 96, True, "HardSwish", 1),
)  # fmt: skip


class Net:
    """A model under construction, all of it in one element type.

    Args:
        dtype: of weights, inputs and results.
        seed: of the weights.
    """

    def __init__(self, dtype: int, seed: int = 0) -> None:
        self.dtype, self._rng = dtype, np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def op(self, op: str, *inputs: str, **attrs: Any) -> str:
        """A node with one result, whose name is returned."""
        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], **attrs))
        return name

    def const(self, array: Any, dtype: int | None = None) -> str:
        """A constant of the net's type, or of another."""
        name = f"c{len(self._constants)}"
        typed = np.asarray(array).astype(helper.tensor_dtype_to_np_dtype(dtype or self.dtype))
        self._constants.append(numpy_helper.from_array(typed, name))
        return name

    def weight(self, *shape: int, fan: int) -> str:
        """Random weights that keep variances as they are."""
        return self.const(self._rng.standard_normal(shape) * (1.6 / fan) ** 0.5)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, group: int = 1) -> str:
        """A convolution with bias that keeps extents but for its stride."""
        fan = inputs // group * kernel * kernel
        bias = self.const(0.1 * self._rng.standard_normal(outputs))
        weight = self.weight(outputs, inputs // group, kernel, kernel, fan=fan)
        return self.op("Conv", x, weight, bias, pads=[kernel // 2] * 4, strides=[stride] * 2, group=group)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """A product with bias over the last axis."""
        product = self.op("MatMul", x, self.weight(inputs, outputs, fan=inputs))
        return self.op("Add", product, self.const(0.1 * self._rng.standard_normal(outputs)))

    def gemm(self, x: str, inputs: int, outputs: int) -> str:
        """The same of a matrix, by one operator and a transposed weight, as frameworks export it."""
        bias = self.const(0.1 * self._rng.standard_normal(outputs))
        return self.op("Gemm", x, self.weight(outputs, inputs, fan=inputs), bias, transB=1)

    def model(self, shape: tuple[int, ...], result: str) -> onnx.ModelProto:
        """The model of input ``x``."""
        graph = helper.make_graph(
            self._nodes, "net", [helper.make_tensor_value_info("x", self.dtype, shape)],
            [helper.make_tensor_value_info(result, self.dtype, None)], self._constants,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made)


def mobilenet(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Inverted residual blocks with squeeze and excitation behind a first layer, images of 224 by 224."""
    net = Net(dtype)
    x, channels = net.op("HardSwish", net.conv("x", 3, 16, 3, 2)), 16
    for kernel, wide, out, excited, activation, stride in MOBILE:
        y = net.op(activation, net.conv(x, channels, wide)) if wide != channels else x
        y = net.op(activation, net.conv(y, wide, wide, kernel, stride, wide))
        if excited:
            mean = net.op("GlobalAveragePool", y)
            less = net.op("Relu", net.conv(mean, wide, max(wide // 4, 8)))
            gate = net.op("HardSigmoid", net.conv(less, max(wide // 4, 8), wide), alpha=1 / 6, beta=0.5)
            y = net.op("Mul", y, gate)
        y = net.conv(y, wide, out)
        x, channels = (net.op("Add", x, y) if stride == 1 and out == channels else y), out
    x = net.op("GlobalAveragePool", net.op("HardSwish", net.conv(x, channels, 576)))
    x = net.op("HardSwish", net.linear(net.op("Flatten", x), 576, 1024))
    return net.model((1, 3, 224, 224), net.linear(x, 1024, 1000))


def encoder(net: Net, x: str, layers: int, tokens: int, hidden: int, heads: int) -> str:
    """Layers of attention written out, GELU and layer normalisations over ``x`` [1, tokens, hidden]."""
    size = hidden // heads
    split, merged = (net.const(s, TensorProto.INT64) for s in ([1, tokens, heads, size], [1, tokens, hidden]))

    def norm(value: str) -> str:
        return net.op("LayerNormalization", value, net.const(np.ones(hidden)), net.const(np.zeros(hidden)), axis=-1)

    for _ in range(layers):
        q, k, v = (
            net.op("Transpose", net.op("Reshape", net.linear(x, hidden, hidden), split), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = net.op("Softmax", net.op("Mul", net.op("MatMul", q, k), net.const(size**-0.5)), axis=-1)
        seen = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = norm(net.op("Add", x, net.linear(net.op("Reshape", seen, merged), hidden, hidden)))
        wide = net.op("Gelu", net.linear(x, hidden, 4 * hidden))
        x = norm(net.op("Add", x, net.linear(wide, 4 * hidden, hidden)))
    return x


def bert(
    dtype: int = TensorProto.FLOAT, layers: int = 4, tokens: int = 128, hidden: int = 256, heads: int = 4
) -> onnx.ModelProto:
    """An encoder behind its embedding."""
    net = Net(dtype)
    return net.model((1, tokens, hidden), encoder(net, "x", layers, tokens, hidden, heads))


def bert_base(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """BERT-base behind its embedding, 128 tokens: 85 million weights."""
    return bert(dtype, layers=12, tokens=128, hidden=768, heads=12)


def vit_small(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """ViT-S/16 (Dosovitskiy et al., 2020) without its class token: 14 by 14 patches of an image, 22 million weights."""
    net = Net(dtype)
    bias, weight = net.const(np.zeros(384)), net.weight(384, 3, 16, 16, fan=768)
    patches = net.op("Conv", "x", weight, bias, strides=[16, 16])
    rows = net.op("Transpose", net.op("Reshape", patches, net.const([1, 384, 196], TensorProto.INT64)), perm=[0, 2, 1])
    placed = net.op("Add", rows, net.weight(1, 196, 384, fan=160))
    x = net.op("ReduceMean", encoder(net, placed, 12, 196, 384, 6), net.const([1], TensorProto.INT64), keepdims=0)
    return net.model((1, 3, 224, 224), net.linear(x, 384, 1000))


def bert_base_token(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """BERT-base (85 million weights behind the embedding) for one token: all of its time goes into reading weights."""
    return bert(dtype, layers=12, tokens=1, hidden=768, heads=12)


def vgg_gemms(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """The last three layers of VGG-19: 124 million weights."""
    net = Net(dtype)
    x = "x"
    for inputs, outputs in ((25088, 4096), (4096, 4096)):
        x = net.op("Relu", net.gemm(x, inputs, outputs))
    return net.model((1, 25088), net.gemm(x, 4096, 1000))


NETS = {
    "mobilenet": mobilenet, "bert": bert, "bert_base": bert_base, "bert_base_token": bert_base_token, "vit_small": vit_small,
    "vgg_gemms": vgg_gemms,
}  # fmt: skip

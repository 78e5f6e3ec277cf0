"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381), width 1.0: inverted residuals, depthwise convolutions, ReLU6.

As PyTorch exports torchvision's network with BatchNormalization kept: ReLU6 is a Clip with two operands.
"""

from __future__ import annotations

import onnx

from graphopt.models.generated.writer import Writer, tensor

NAME = "mobilenet_v2"
OPSET = 13
SIZE = 96
CLASSES = 1000
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, repeats and stride of the first block."""
HEAD = 1280
GAIN = 1.5
# Each residual branch adds this much to the standard deviation of what it is added to.
BRANCH = 0.5


def mobilenet_v2(seed: int, size: int = SIZE) -> onnx.ModelProto:
    """``image`` 1x3x``size``x``size`` to ``logits`` 1x1000."""
    net = Writer(NAME, OPSET, seed)
    x, channels = _conv_bn_relu6(net, "features.0", "image", 3, 32, kernel=3, stride=2), 32
    block = 1
    for expansion, out, repeats, stride in STAGES:
        for repeat in range(repeats):
            x = _inverted_residual(net, f"features.{block}", x, channels, out, expansion, stride if repeat == 0 else 1)
            channels, block = out, block + 1
    x = _conv_bn_relu6(net, f"features.{block}", x, channels, HEAD)
    x = net.node("Flatten", "flatten", net.node("GlobalAveragePool", "pool", x), axis=1)
    # Averages of rectified values differ little from image to image, so the last layer amplifies.
    weight = net.filter("classifier.1.weight", (CLASSES, HEAD), (1,), GAIN)
    bias = net.normal("classifier.1.bias", (CLASSES,), 0.05)
    net.node("Gemm", "classifier.1", x, weight, bias, transB=1, out="logits")
    return net.model([tensor("image", (1, 3, size, size))], [tensor("logits", (1, CLASSES))])


def _inverted_residual(net: Writer, path: str, x: str, channels: int, out: int, expansion: int, stride: int) -> str:
    hidden = channels * expansion
    y = x if expansion == 1 else _conv_bn_relu6(net, f"{path}.conv.expand", x, channels, hidden)
    y = _conv_bn_relu6(net, f"{path}.conv.depthwise", y, hidden, hidden, kernel=3, stride=stride, group=hidden)
    residual = stride == 1 and channels == out
    y = _conv_bn(net, f"{path}.conv.project", y, hidden, out, gain=BRANCH if residual else 1.0)
    return net.node("Add", path, x, y) if residual else y


def _conv_bn_relu6(
    net: Writer, path: str, x: str, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, group: int = 1
) -> str:
    y = _conv_bn(net, path, x, inputs, outputs, kernel=kernel, stride=stride, group=group)
    return net.node("Clip", path, y, net.scalar(0.0), net.scalar(6.0))


def _conv_bn(
    net: Writer, path: str, x: str, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, group: int = 1,
    gain: float = 1.0,
) -> str:  # fmt: skip
    shape = (outputs, inputs // group, kernel, kernel)
    name = f"{path}.0.weight"
    weight = net.normal(name, shape, 0.45) if group > 1 else net.filter(name, shape, (1, 2, 3), 1.7)
    y = net.node(
        "Conv", f"{path}.0", x, weight, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, strides=[stride] * 2,
        group=group, dilations=[1, 1],
    )  # fmt: skip
    parameters = (
        net.uniform(f"{path}.1.weight", (outputs,), 0.8 * gain, 1.2 * gain),
        net.normal(f"{path}.1.bias", (outputs,), 0.05),
        net.normal(f"{path}.1.running_mean", (outputs,), 0.05),
        net.uniform(f"{path}.1.running_var", (outputs,), 0.8, 1.2),
    )
    return net.node("BatchNormalization", f"{path}.1", y, *parameters, epsilon=1e-5)

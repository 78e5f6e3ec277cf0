"""A small ResNeXt (Xie et al., CVPR 2017, arXiv:1611.05431) with seeded weights: 32 groups, two blocks in each of four stages.

Many short loops that use every thread, with a join after each: what suffers first when a thread is not scheduled.
"""

from __future__ import annotations

import onnx

from graphopt.models.generated.writer import Writer, tensor

SIZE = 96
STAGES = ((128, 256, 1), (256, 512, 2), (512, 1024, 2), (1024, 2048, 2))
"""Channels of the grouped convolution, output channels, stride of the first block."""
BLOCKS = 2
GROUPS = 32
CLASSES = 1000
BRANCH = 0.5
"""Each residual branch adds this much to the standard deviation of what it is added to."""


def resnext(stages: int = len(STAGES), seed: int = 0) -> onnx.ModelProto:
    """``image`` 1x3x96x96 to ``logits`` 1x1000, through the first of the stages."""
    net = Writer("resnext", 13, seed)
    x = net.node("Relu", "stem.relu", _conv(net, "stem", "image", 3, 64, kernel=7, stride=2))
    x = net.node("MaxPool", "stem.pool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (width, out, first) in enumerate(STAGES[:stages]):
        for block in range(BLOCKS):
            path, stride = f"layer{stage}.{block}", first if block == 0 else 1
            y = net.node("Relu", f"{path}.relu1", _conv(net, f"{path}.conv1", x, channels, width))
            y = _conv(net, f"{path}.conv2", y, width, width, kernel=3, stride=stride, group=GROUPS)
            y = _conv(net, f"{path}.conv3", net.node("Relu", f"{path}.relu2", y), width, out, gain=BRANCH)
            if block == 0:
                x = _conv(net, f"{path}.downsample", x, channels, out, stride=stride)
            x = net.node("Relu", f"{path}.relu3", net.node("Add", f"{path}.add", x, y))
            channels = out
    x = net.node("Flatten", "flatten", net.node("GlobalAveragePool", "pool", x), axis=1)
    weight = net.filter("fc.weight", (CLASSES, channels), (1,), 1.0)
    net.node("Gemm", "fc", x, weight, net.normal("fc.bias", (CLASSES,), 0.05), transB=1, out="logits")
    return net.model([tensor("image", (1, 3, SIZE, SIZE))], [tensor("logits", (1, CLASSES))])


def _conv(
    net: Writer, path: str, x: str, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, group: int = 1,
    gain: float = 1.0,
) -> str:  # fmt: skip
    """A convolution with the bias that batch normalisation leaves when an exporter folds it."""
    shape = (outputs, inputs // group, kernel, kernel)
    weight = net.filter(f"{path}.weight", shape, (1, 2, 3), 1.4 * gain)
    bias = net.normal(f"{path}.bias", (outputs,), 0.05)
    return net.node(
        "Conv", path, x, weight, bias, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4,
        strides=[stride] * 2, group=group,
    )  # fmt: skip

"""Depthwise convolution kernels as templates."""

from __future__ import annotations

from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.backends.cpu.kernels import depthwise, depthwise_plain
from graphopt.backends.cpu.kernels.plain_config import PlainWindowConfig
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig
from graphopt.backends.templates.convolution import ConvKernel, ConvTemplate
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ops.context import attr


class DepthwiseConv2d(ConvTemplate[SlidingConfig]):
    """Conv with one filter a channel, on channel blocks."""

    name: ClassVar[str] = "conv2d-depthwise"
    config_type: ClassVar[type[Any]] = SlidingConfig
    kernel = ConvKernel(
        depthwise.supports,
        depthwise.default_config,
        depthwise.configurations,
        lambda spec, config, caps: depthwise.seconds(spec, config.lanes) / caps.cores,
        depthwise.packing,
        depthwise.emit,
        slices=True,
    )

    def wanted_layout(self, call: KernelCall, caps: Caps) -> Layout:
        """The layout that the data comes in; a depthwise convolution has no reason to change it."""
        node = call.group.anchor
        x = node.inputs[0]
        if x is None or len(x.shape) not in (4, 5) or attr(node, "group") != x.shape[1]:
            return PLAIN
        return call.layout(x)


class PlainDepthwiseConv2d(ConvTemplate[PlainWindowConfig]):
    """Conv with one filter a channel, on plain data: where no block divides the channels, or neighbours want it plain."""

    name: ClassVar[str] = "conv2d-depthwise-plain"
    config_type: ClassVar[type[Any]] = PlainWindowConfig
    kernel = ConvKernel(
        depthwise_plain.supports,
        depthwise_plain.default_config,
        depthwise_plain.configurations,
        lambda spec, _, caps: depthwise_plain.predicted_seconds(spec, caps) / caps.cores,
        depthwise_plain.packing,
        depthwise_plain.emit,
    )

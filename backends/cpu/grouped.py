"""Grouped convolutions as templates."""

from __future__ import annotations

from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.backends.cpu.kernels import grouped_blocked, grouped_pointwise
from graphopt.backends.cpu.kernels.grouped_pointwise import GroupedPointwiseConfig
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig
from graphopt.backends.templates.convolution import ConvKernel, ConvTemplate, channel_layout
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ops.context import attr


class GroupedPointwiseConv2d(ConvTemplate[GroupedPointwiseConfig]):
    """1x1 Conv in groups on plain data."""

    name: ClassVar[str] = "conv2d-grouped-1x1"
    config_type: ClassVar[type[Any]] = GroupedPointwiseConfig
    kernel = ConvKernel(
        grouped_pointwise.supports,
        grouped_pointwise.default_config,
        grouped_pointwise.configurations,
        lambda spec, config, caps: grouped_pointwise.seconds(spec, config, caps) / caps.cores,
        grouped_pointwise.packing,
        grouped_pointwise.emit,
    )


class GroupedConv2d(ConvTemplate[SlidingConfig]):
    """Conv in groups on channel blocks."""

    name: ClassVar[str] = "conv2d-grouped"
    config_type: ClassVar[type[Any]] = SlidingConfig
    kernel = ConvKernel(
        grouped_blocked.supports,
        grouped_blocked.default_config,
        grouped_blocked.configurations,
        lambda spec, config, caps: grouped_blocked.seconds(spec, config.lanes) / caps.cores,
        grouped_blocked.packing,
        grouped_blocked.emit,
    )

    def wanted_layout(self, call: KernelCall, caps: Caps) -> Layout:
        """That of the data, or a vector of channels. 1x1 kernels have a faster form on plain data."""
        node = call.group.anchor
        x, w = node.inputs[0], node.inputs[1]
        if x is None or w is None or attr(node, "group") in (1, x.shape[1]):
            return PLAIN
        if all(k == 1 for k in w.shape[2:]):
            return PLAIN
        own = call.layout(x)
        return channel_layout(node.out.shape[1], caps) if own.is_plain else own

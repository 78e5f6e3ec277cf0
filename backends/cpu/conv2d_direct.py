"""Direct convolution as a template."""

from __future__ import annotations

from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.cost.direct import configurations, default_config, dot_product_of, predicted_cycles
from graphopt.backends.cpu.kernels.conv2d_direct import emit
from graphopt.backends.cpu.kernels.conv2d_tile import Conv2dConfig, packing, supports
from graphopt.backends.templates.convolution import ConvKernel, ConvTemplate, channel_layout
from graphopt.ir.layout import Layout


class DirectConv2d(ConvTemplate[Conv2dConfig]):
    """Direct convolution of one group, channels blocked or plain."""

    name: ClassVar[str] = "conv2d-direct"
    config_type: ClassVar[type[Any]] = Conv2dConfig
    kernel = ConvKernel(
        supports,
        default_config,
        configurations,
        lambda spec, config, caps: predicted_cycles(spec, config, caps) / CLOCK,
        packing,
        emit,
        integers=dot_product_of,
        slices=True,
        settles=True,
    )

    def wanted_layout(self, call: KernelCall, caps: Caps) -> Layout:
        """A vector of channels, or 8 where that does not divide them."""
        channels = call.group.anchor.out.shape[1]
        return channel_layout(channels, caps)

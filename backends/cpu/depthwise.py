"""Depthwise convolution kernels as templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.conv_template import ConvTemplate
from graphopt.backends.cpu.kernels import depthwise, depthwise_plain
from graphopt.backends.cpu.kernels.conv2d_spec import Conv2dSpec
from graphopt.backends.cpu.kernels.epilogue import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.backends.cpu.kernels.plain_window import PlainWindowConfig
from graphopt.backends.cpu.kernels.sliding_window import SlidingConfig
from graphopt.ops.context import attr


class DepthwiseConv2d(ConvTemplate[SlidingConfig]):
    """Conv with one filter a channel, on channel blocks."""

    name: ClassVar[str] = "conv2d-depthwise"

    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, or None if it can."""
        return depthwise.supports(spec, caps)

    def kernel_default(self, spec: Conv2dSpec, caps: Caps) -> SlidingConfig:
        """A row of pixels that fills the registers."""
        return depthwise.default_config(spec, caps)

    def kernel_seconds(self, spec: Conv2dSpec, config: SlidingConfig, caps: Caps) -> float:
        """Predicted time."""
        return depthwise.seconds(spec, config.lanes) / max(caps.cores, 1)

    def kernel_weight(
        self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: SlidingConfig
    ) -> npt.NDArray[np.float32]:
        """Filters with channels innermost."""
        return depthwise.pack_weight(weight, spec, config)

    def kernel_emit(
        self,
        spec: Conv2dSpec,
        config: SlidingConfig,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tirx.PrimFunc:
        """The kernel's function."""
        return depthwise.emit(spec, config, epilogue, extras, name, style)

    def wanted_block(self, call: KernelCall, caps: Caps) -> int:
        """The block that the data comes in; a depthwise convolution has no reason to change it."""
        node = call.group.anchor
        x = node.inputs[0]
        if x is None or len(x.shape) != 4 or attr(node, "group") != x.shape[1]:
            return 0
        return call.block(x)


class PlainDepthwiseConv2d(ConvTemplate[PlainWindowConfig]):
    """Conv with one filter a channel, on plain data: where no block divides the channels, or neighbours want it plain."""

    name: ClassVar[str] = "conv2d-depthwise-plain"

    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, or None if it can."""
        return depthwise_plain.supports(spec, caps)

    def kernel_default(self, spec: Conv2dSpec, caps: Caps) -> PlainWindowConfig:
        """Tile and strip that fit registers and cache."""
        return depthwise_plain.default_config(spec, caps)

    def kernel_seconds(self, spec: Conv2dSpec, config: PlainWindowConfig, caps: Caps) -> float:
        """Predicted time."""
        return depthwise_plain.predicted_seconds(spec, caps) / max(caps.cores, 1)

    def kernel_weight(
        self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: PlainWindowConfig
    ) -> npt.NDArray[np.float32]:
        """Filters one after the other."""
        return depthwise_plain.pack_weight(weight, spec)

    def kernel_emit(
        self,
        spec: Conv2dSpec,
        config: PlainWindowConfig,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tirx.PrimFunc:
        """The kernel's function."""
        return depthwise_plain.emit(spec, config, epilogue, extras, name, style)

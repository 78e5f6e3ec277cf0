"""Grouped convolutions as templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.conv_template import ConvTemplate, channel_block
from graphopt.backends.cpu.kernels import grouped_blocked, grouped_pointwise
from graphopt.backends.cpu.kernels.conv2d_spec import Conv2dSpec
from graphopt.backends.cpu.kernels.epilogue import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.backends.cpu.kernels.grouped_pointwise import GroupedPointwiseConfig
from graphopt.backends.cpu.kernels.sliding_window import SlidingConfig
from graphopt.ops.context import attr


class GroupedPointwiseConv2d(ConvTemplate[GroupedPointwiseConfig]):
    """1x1 Conv in groups on plain data."""

    name: ClassVar[str] = "conv2d-grouped-1x1"

    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, or None if it can."""
        return grouped_pointwise.supports(spec, caps)

    def kernel_default(self, spec: Conv2dSpec, caps: Caps) -> GroupedPointwiseConfig:
        """The tile that the kernel predicts to be fastest."""
        return grouped_pointwise.default_config(spec, caps)

    def kernel_seconds(self, spec: Conv2dSpec, config: GroupedPointwiseConfig, caps: Caps) -> float:
        """Predicted time."""
        return grouped_pointwise.seconds(spec, config) / max(caps.cores, 1)

    def kernel_weight(
        self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: GroupedPointwiseConfig
    ) -> npt.NDArray[np.float32]:
        """Weights in the order in which tiles read them."""
        return grouped_pointwise.pack_weight(weight, spec, config)

    def kernel_emit(
        self,
        spec: Conv2dSpec,
        config: GroupedPointwiseConfig,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tirx.PrimFunc:
        """The kernel's function."""
        return grouped_pointwise.emit(spec, config, epilogue, extras, name, style)


class GroupedConv2d(ConvTemplate[SlidingConfig]):
    """Conv in groups on channel blocks."""

    name: ClassVar[str] = "conv2d-grouped"

    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, or None if it can."""
        return grouped_blocked.supports(spec, caps)

    def kernel_default(self, spec: Conv2dSpec, caps: Caps) -> SlidingConfig:
        """A row of pixels that fills the registers."""
        return grouped_blocked.default_config(spec, caps)

    def kernel_seconds(self, spec: Conv2dSpec, config: SlidingConfig, caps: Caps) -> float:
        """Predicted time."""
        return grouped_blocked.seconds(spec, config.lanes) / max(caps.cores, 1)

    def kernel_weight(
        self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: SlidingConfig
    ) -> npt.NDArray[np.float32]:
        """Weights with output channels innermost."""
        return grouped_blocked.pack_weight(weight, spec, config)

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
        return grouped_blocked.emit(spec, config, epilogue, extras, name, style)

    def wanted_block(self, call: KernelCall, caps: Caps) -> int:
        """That of the data, or a vector of channels. 1x1 kernels have a faster form on plain data."""
        node = call.group.anchor
        x, w = node.inputs[0], node.inputs[1]
        if x is None or w is None or attr(node, "group") in (1, x.shape[1]):
            return 0
        if all(k == 1 for k in w.shape[2:]):
            return 0
        return call.block(x) or channel_block(node.out.shape[1], caps)

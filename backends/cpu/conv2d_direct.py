"""Direct convolution as a template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.conv_template import ConvTemplate, channel_block
from graphopt.backends.cpu.kernels.conv2d_direct import Conv2dConfig, emit, pack_weight, supports
from graphopt.backends.cpu.kernels.conv2d_spec import Conv2dSpec
from graphopt.backends.cpu.kernels.cost_constants import CLOCK
from graphopt.backends.cpu.kernels.direct_cost import default_config, predicted_cycles
from graphopt.backends.cpu.kernels.epilogue import EpilogueFn, ExtraOperand, StoreStyle


class DirectConv2d(ConvTemplate[Conv2dConfig]):
    """Direct convolution of one group, channels blocked or plain."""

    name: ClassVar[str] = "conv2d-direct"

    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, None if it can."""
        return supports(spec, caps)

    def kernel_default(self, spec: Conv2dSpec, caps: Caps) -> Conv2dConfig:
        """The tile that the kernel predicts to be fastest."""
        return default_config(spec, caps)

    def kernel_seconds(self, spec: Conv2dSpec, config: Conv2dConfig, caps: Caps) -> float:
        """Predicted time on all of the target's cores."""
        return predicted_cycles(spec, config, caps) / CLOCK

    def kernel_weight(
        self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: Conv2dConfig
    ) -> npt.NDArray[np.float32]:
        """Weights in panels of the tile's channels."""
        return pack_weight(weight, spec, config)

    def kernel_emit(
        self,
        spec: Conv2dSpec,
        config: Conv2dConfig,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tirx.PrimFunc:
        """The PrimFunc over data, packed weights, extra operands and the output."""
        return emit(spec, config, epilogue, extras, name, style)

    def wanted_block(self, call: KernelCall, caps: Caps) -> int:
        """A vector of channels, or 8 where that does not divide them."""
        channels = call.group.anchor.out.shape[1]
        return channel_block(channels, caps)

"""Winograd convolution as a template: competes with the direct one wherever rounding may differ from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall, No, Support
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.conv_template import ConvTemplate
from graphopt.backends.cpu.kernels import conv2d_winograd as kernels
from graphopt.backends.cpu.kernels.conv2d_spec import Conv2dSpec
from graphopt.backends.cpu.kernels.conv2d_winograd import WinogradConfig
from graphopt.backends.cpu.kernels.cost_constants import CLOCK
from graphopt.backends.cpu.kernels.epilogue import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.backends.cpu.kernels.winograd_cost import default_config, predicted_cycles


class WinogradConv2d(ConvTemplate[WinogradConfig]):
    """F(2 x 2, 3 x 3) or F(4 x 4, 3 x 3), whichever is predicted to be faster.

    Its rounding errors are some ten times those of direct convolution, so ``exact`` compilations leave it out.
    """

    name: ClassVar[str] = "conv2d-winograd"

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        if call.fused.exact:
            return No("exact: rounds otherwise than the sum of products")
        return super().supports(call, caps)

    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, None if it can."""
        return kernels.supports(spec, caps)

    def kernel_default(self, spec: Conv2dSpec, caps: Caps) -> WinogradConfig:
        """Tile size and blocks with the least predicted time."""
        return default_config(spec, caps)

    def kernel_seconds(self, spec: Conv2dSpec, config: WinogradConfig, caps: Caps) -> float:
        """Predicted time on all of the target's cores."""
        return predicted_cycles(spec, config, caps) / CLOCK

    def kernel_weight(
        self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: WinogradConfig
    ) -> npt.NDArray[np.float32]:
        """Transformed weights in panels."""
        return kernels.pack_weight(weight, spec, config)

    def kernel_emit(
        self,
        spec: Conv2dSpec,
        config: WinogradConfig,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tirx.PrimFunc:
        """The PrimFunc over data, transformed weights, extra operands and the output."""
        return kernels.emit(spec, config, epilogue, extras, name, style)

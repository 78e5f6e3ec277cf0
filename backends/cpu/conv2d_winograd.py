"""Winograd convolution as a template: competes with the direct one wherever rounding may differ from it, or there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import FLOAT32, HALF
from graphopt.backends.base.template import KernelCall, No, Support, Yes
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.cost.direct import dot_product_of
from graphopt.backends.cpu.cost.winograd import configurations, default_config, fitting_tiles, predicted_cycles
from graphopt.backends.cpu.kernels import conv2d_winograd as kernels
from graphopt.backends.cpu.kernels import winograd_tile
from graphopt.backends.cpu.kernels.winograd_tile import WinogradConfig
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.convolution import ConvKernel, ConvTemplate
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim


class WinogradConv2d(ConvTemplate[WinogradConfig]):
    """F(2 x 2, 3 x 3) or F(4 x 4, 3 x 3), whichever is predicted to be faster; on ARM other kernels too, whose patches are 6 x 6.

    Its rounding errors in floating point are some ten times those of direct convolution, so ``exact`` compilations leave it out.
    Of integers it is exact.
    """

    name: ClassVar[str] = "conv2d-winograd"
    config_type: ClassVar[type[Any]] = WinogradConfig
    kernel = ConvKernel(
        winograd_tile.supports,
        default_config,
        configurations,
        lambda spec, config, caps: predicted_cycles(spec, config, caps) / CLOCK,
        winograd_tile.packing,
        kernels.emit,
        stored_weight=False,
        integers=lambda spec, caps: dot_product_of(spec, caps) if any(fitting_tiles(spec)) else "",
        sums_products=False,
        slices=True,
        settles=True,
    )

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        support = super().supports(call, caps)
        if isinstance(support, Yes) and call.fused.options.exact:
            spec, _ = self.spec_of(call, caps)
            if not spec.types.of_integers:
                return No("exact: rounds otherwise than the sum of products")
        return support

    def spec_of(self, call: KernelCall, caps: Caps) -> tuple[Conv2dSpec, dict[Dim, Expr]]:
        """As of all convolutions, but kernels that aren't 3 x 3 with stride 1 are computed in float32: of few channels no sum would
        be long enough to gain by float16, and of 5 x 5 float16 has no way back that is precise enough."""
        spec, dims = super().spec_of(call, caps)
        if spec.types.accumulator is HALF and (spec.kernel, spec.strides) != ((3, 3), (1, 1)):
            spec = replace(spec, types=replace(spec.types.widened, weight=FLOAT32))
        return spec, dims

"""Strassen's matrix products as templates: they compete with the plain ones wherever rounding may differ from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.cpu.cost.constants import CLOCK, FMA_FLOPS_PER_LANE
from graphopt.backends.cpu.cost.strassen import configurations, default_config, predicted_cycles
from graphopt.backends.cpu.kernels.strassen_operands import emit_conv2d, emit_matmul, product_of
from graphopt.backends.cpu.kernels.strassen_tile import FilterPacking, StrassenConfig, packing, supports
from graphopt.backends.cpu.matmul import PackedMatmul, emitted_product, spec_of
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.convolution import ConvKernel, ConvTemplate
from graphopt.backends.templates.matrix_rows import is_turned
from graphopt.ops.registry import MATRIX_PRODUCT
from graphopt.ops.table import ops_with

_EXACT = No("exact: rounds otherwise than the sum of products")


def _supports_conv(spec: Conv2dSpec, caps: Caps) -> str | None:
    """Why a convolution is no product that can be computed so, or None if it is one."""
    if spec.groups != 1 or spec.slices is not None:
        return "only one group, over two axes"
    if min(spec.pads) < 0:
        return "negative padding"
    if (
        spec.in_block < 4
        or spec.out_block < 4
        or spec.in_channels % spec.in_block
        or spec.out_channels % spec.out_block
    ):
        return "needs channels in whole blocks"
    if spec.static_plane is None:
        return "needs a known size"
    return supports(product_of(spec), caps, _together(spec))


def _together(spec: Conv2dSpec) -> int:
    """Steps that aren't cut: all taps of a block of channels."""
    taps = spec.kernel[0] * spec.kernel[1]
    return 1 if taps == 1 else taps * spec.in_block


def _filter_packing(spec: Conv2dSpec, config: StrassenConfig) -> Packing:
    shape = (spec.out_channels, spec.in_channels, *spec.kernel)
    return FilterPacking(shape, spec.in_block, packing(product_of(spec), config, turned=True))


class StrassenConv2d(ConvTemplate[StrassenConfig]):
    """Convolution of one group; its rounding errors are some times those of the direct one."""

    name: ClassVar[str] = "conv2d-strassen"
    config_type: ClassVar[type[Any]] = StrassenConfig
    kernel = ConvKernel(
        _supports_conv,
        lambda spec, caps: default_config(product_of(spec), caps, _together(spec)),
        lambda spec, caps: configurations(product_of(spec), caps, _together(spec)),
        lambda spec, config, caps: predicted_cycles(product_of(spec), config, caps) / CLOCK,
        _filter_packing,
        emit_conv2d,
        stored_weight=False,
        sums_products=False,
        settles=True,
    )

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        return _EXACT if call.fused.options.exact else super().supports(call, caps)


class StrassenMatmul(KernelTemplate[StrassenConfig]):
    """MatMul and Gemm with a constant second operand, as `PackedMatmul` takes them."""

    name: ClassVar[str] = "matmul-strassen"
    config_type: ClassVar[type[Any]] = StrassenConfig
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(MATRIX_PRODUCT))
    converts: ClassVar[bool] = True
    _plain = PackedMatmul()

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        if call.fused.options.exact:
            return _EXACT
        support = self._plain.supports(call, caps)
        if not isinstance(support, Yes):
            return support
        reason = supports(spec_of(call)[0], caps)
        return support if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> StrassenConfig:
        """The configuration with the least predicted time."""
        return default_config(spec_of(call)[0], caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[StrassenConfig]:
        """Levels of recursion, register tiles, and blocks of rows and panels."""
        return configurations(spec_of(call)[0], caps)

    def cost(self, call: KernelCall, config: StrassenConfig, caps: Caps) -> float:
        """The plain product's cost, as much less as it takes less time than multiply-adds at their peak rate."""
        spec = spec_of(call)[0]
        peak = (spec.flops or 0) / 2 / (caps.fma_per_cycle * spec.types.lanes(caps)) / max(caps.cores, 1)
        plain = (spec.flops or 0) / (FMA_FLOPS_PER_LANE * spec.types.lanes(caps) * CLOCK * max(caps.cores, 1))
        return plain * predicted_cycles(spec, config, caps) / peak

    def emit(self, call: KernelCall, config: StrassenConfig, caps: Caps, name: str) -> Emitted:
        """The kernel, its right-hand side transformed and packed."""
        node = call.group.anchor
        spec, dims = spec_of(call)
        spec = replace(spec, types=replace(spec.types, weight=spec.types.accumulator))
        order = packing(spec, config, is_turned(node))
        return emitted_product(
            call, caps, spec, dims, None, name, lambda *rest: emit_matmul(spec, config, *rest), order
        )

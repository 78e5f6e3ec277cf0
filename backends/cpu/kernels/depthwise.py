"""Depthwise convolution (one filter a channel) on channel-blocked data: a lane is a channel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from graphopt.backends.base import dialect
from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import GivenZeroPoint, converted_while_read, element_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import sliding_config, sliding_window
from graphopt.backends.cpu.kernels.filter_packing import FilterVectorPacking, factor_type
from graphopt.backends.cpu.kernels.slices import channels_of_slice
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig, tile_for, whole_row, worth_threads
from graphopt.backends.cpu.kernels.vector_tile import ramp
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle

_KEPT_WEIGHTS = 5
"""Weights of a kernel row worth a register each; more are read from L1 with each multiplication."""

_BYTES_PER_SECOND = 20e9
_MULTIPLIES_PER_SECOND = 2e9


def supports(spec: Conv2dSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if not spec.groups == spec.data_channels == spec.out_channels:
        return "needs one filter a channel"
    if spec.in_block != spec.out_block or spec.in_block % 4:
        return "needs data and result in channel blocks of the same multiple of 4"
    if spec.data_channels % spec.in_block:
        return f"{spec.data_channels} channels aren't a multiple of the block of {spec.in_block}"
    if min(spec.pads) < 0:
        return "negative padding"
    if min(spec.in_channels, 1, *(spec.static_plane or ())) < 1:
        return "an empty dimension"
    return None


def default_config(spec: Conv2dSpec, caps: Caps) -> SlidingConfig:
    """A row of pixels that fills the registers."""
    lanes = math.gcd(spec.out_block, spec.types.lanes(caps))
    kept = min(spec.kernel[1], _KEPT_WEIGHTS)
    parallel = worth_threads(seconds(spec, lanes), caps)
    return SlidingConfig(lanes, tile_for(spec, caps, kept), parallel, whole_row(spec, caps, kept))


def configurations(spec: Conv2dSpec, caps: Caps) -> Iterator[SlidingConfig]:
    """Rows of pixels that fit the registers."""
    kept = min(spec.kernel[1], _KEPT_WEIGHTS)
    return sliding_config.configurations(spec, caps, math.gcd(spec.out_block, spec.types.lanes(caps)), kept)


def seconds(spec: Conv2dSpec, lanes: int) -> float:
    """Rough time on one core: multiplications or bytes, whichever takes longer. Infinite for symbolic sizes."""
    if not isinstance(spec.batch, int) or spec.static_plane is None:
        return math.inf
    height, width = spec.static_plane
    results = spec.batch * spec.out_channels * height * width
    multiplies = results * spec.reduction / (lanes * _MULTIPLIES_PER_SECOND)
    moved = spec.types.input.bytes * (
        results + spec.batch * spec.data_channels * int(spec.in_height) * int(spec.in_width)
    )
    return max(multiplies, moved / _BYTES_PER_SECOND)


def packing(spec: Conv2dSpec, config: SlidingConfig) -> FilterVectorPacking:
    """How weights are packed."""
    shape = (spec.out_channels, 1, *([] if spec.slices is None else [spec.slices.window.kernel]), *spec.kernel)
    return FilterVectorPacking(shape, factor_type(spec), config.lanes, summed=_zero_point(spec) is not None)


def _zero_point(spec: Conv2dSpec) -> tirx.Expr | None:
    """Of the data, where integers are multiplied and no sum is rounded; None elsewhere."""
    conversion = spec.types.input.conversion
    if conversion is None or not spec.sums_integers or not conversion.zero_point:
        return None
    given = conversion.zero_point
    return given.variable if isinstance(given, GivenZeroPoint) else tirx.const(given, "int32")


@dataclass(frozen=True)
class _Multiply:
    """Products of a channel with its own filter."""

    spec: Conv2dSpec
    lanes: int
    data: View
    weight: View
    start: float | tirx.Expr = 0.0
    separable: bool = False
    written_out: bool = False

    @property
    def begins(self) -> bool:
        """Where setting a register to 0 takes an instruction like any other."""
        return isinstance(self.start, float) and dialect.current().register_operands

    def on_data(self, vector: tirx.Expr) -> _Multiply:
        """The zero point of the data is left in, and subtracted for all of the window at once."""
        conversion, zero_point = self.spec.types.input.conversion, _zero_point(self.spec)
        if conversion is None or zero_point is None:
            return self
        row = converted_while_read(element_type(self.data.type.dtype), replace(conversion, zero_point=0))
        factor = tirx.Broadcast(
            (tirx.const(0, "int32") - zero_point).astype(self.spec.types.accumulator.compute), self.lanes
        )
        return replace(self, data=View(self.data.buffer, row), start=self._factors(vector, -1) * factor)

    def _factors(self, vector: tirx.Expr, tap: tirx.Expr | int) -> tirx.Expr:
        """A vector of the packed weights; that of tap -1 lies behind those of all taps."""
        last = self.spec.reduction
        place = last if isinstance(tap, int) and tap < 0 else tap
        return self.weight.load([vector, place, ramp(0, self.lanes)])

    def steps(self, vector: tirx.Expr) -> int:
        """One value a pixel and slice."""
        return 1

    def value(
        self, image: tirx.Expr, vector: tirx.Expr, step: tirx.Expr | int, y: tirx.Expr, x: tirx.Expr
    ) -> tirx.Expr:
        """A vector of channels."""
        parts = self.spec.in_block // self.lanes
        first = tirx.floormod(vector, parts) * self.lanes
        channels = channels_of_slice(self.spec, image, tirx.floordiv(vector, parts), step)
        return self.data.load([*channels, y, x, ramp(first, self.lanes)])

    def accumulate(
        self,
        old: tirx.Expr | None,
        value: tirx.Expr,
        vector: tirx.Expr,
        step: tirx.Expr | int,
        ky: tirx.Expr,
        kx: tirx.Expr,
    ) -> tirx.Expr:
        """A fused multiply-add, or the product alone."""
        row = ky if self.spec.slices is None else step * self.spec.kernel[0] + ky
        product = value * self._factors(vector, row * self.spec.kernel[1] + kx)
        return product if old is None else old + product

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr, inside: bool) -> tirx.Expr:
        """The sum."""
        return total


def emit(
    spec: Conv2dSpec,
    config: SlidingConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "depthwise",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data: spec.input_shape, weight: as packed, *extras, output: spec.output_shape)``.

    Args:
        spec: the problem; `supports` must accept it.
        config: the tile; weights must be packed with the same.
        epilogue: maps an accumulator at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    elements = spec.reduction + (_zero_point(spec) is not None)
    weight = (spec.out_channels // config.lanes, elements, config.lanes)
    return sliding_window.emit(
        spec,
        config,
        [("data", spec.input_shape, spec.types.input), ("weight", weight, factor_type(spec))],
        lambda buffers: _Multiply(spec, config.lanes, buffers[0], buffers[1]),
        epilogue,
        extras,
        name,
        style,
    )

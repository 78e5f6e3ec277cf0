"""Transposed convolution as one ordinary convolution for each phase of its strides: a lane is an output channel.

Output row ``o`` takes input row ``i`` through kernel row ``k`` where ``i * stride + k = o + pad``. For the rows ``o`` of one
remainder by the stride these ``k`` are the same, so the rows of a phase are a convolution of stride 1 with that part of the
kernel, reversed. All phases of a row run together, while their input is in cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import sliding_config, sliding_window
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig, tile_for, worth_threads
from graphopt.backends.cpu.kernels.sliding_window import Phase
from graphopt.backends.cpu.kernels.vector_tile import broadcast, ramp
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.transposed_convolution import TransposedSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.ir.graph import Array

_KEPT_WEIGHTS = 3
_PRODUCTS_PER_SECOND = 3e9
_ELEMENTS_PER_SECOND = 1e9


def supports(spec: TransposedSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if any(k < s for k, s in zip(spec.kernel, spec.strides)):
        return "gaps between windows"
    if (
        spec.in_channels % spec.in_block
        or spec.out_channels % spec.out_block
        or (spec.out_block > 1 and spec.out_block % 4)
    ):
        return "channels that aren't a multiple of their block"
    known = [
        d for d in (spec.batch, spec.height, spec.width, spec.out_extent(0), spec.out_extent(1)) if isinstance(d, int)
    ]
    if min(1, *known, spec.in_channels, spec.out_channels) < 1:
        return "an empty dimension"
    # every phase must have at least no rows, and the first one some
    for axis, extent in enumerate((spec.height, spec.width)):
        if not isinstance(extent, int) and spec.kernel[axis] - spec.pads[axis] - spec.pads[axis + 2] < 1:
            return "a result that may be empty"
    return None


def default_config(spec: TransposedSpec, caps: Caps) -> SlidingConfig:
    """A row of pixels that fills the registers."""
    config = SlidingConfig(_lanes(spec, caps), tile_for(spec.phase(0, 0), caps, _KEPT_WEIGHTS))
    return replace(config, parallel=worth_threads(seconds(spec, config, caps), caps))


def configurations(spec: TransposedSpec, caps: Caps) -> Iterator[SlidingConfig]:
    """Rows of pixels that fit the registers."""
    return sliding_config.configurations(spec.phase(0, 0), caps, _lanes(spec, caps), _KEPT_WEIGHTS)


def _lanes(spec: TransposedSpec, caps: Caps) -> int:
    if spec.out_block == 1:
        return min(spec.types.lanes(caps), max(4, 1 << (spec.out_channels - 1).bit_length()))
    return math.gcd(spec.out_block, spec.types.lanes(caps))


def seconds(spec: TransposedSpec, config: SlidingConfig, caps: Caps) -> float:
    """Rough time on one core, infinite for symbolic sizes."""
    if not (isinstance(spec.batch, int) and isinstance(spec.height, int) and isinstance(spec.width, int)):
        return math.inf
    products = spec.batch * spec.in_channels * spec.height * spec.width * spec.kernel[0] * spec.kernel[1]
    total = products * -(-spec.out_channels // config.lanes) / _PRODUCTS_PER_SECOND
    if spec.out_block == 1:
        total += spec.batch * spec.out_channels * spec.out_extent(0) * spec.out_extent(1) / _ELEMENTS_PER_SECOND
    return float(total)


@dataclass(frozen=True)
class TapPacking(Packing):
    """(I, O, height, width) weights as (O / lanes, I, taps, lanes); the last lanes may be 0.

    Attributes:
        taps: (row, column) of the kernel's elements, phase by phase.
        lanes: output channels of a vector.
    """

    taps: tuple[tuple[int, int], ...]
    lanes: int

    def packed(self, array: Array) -> Array:
        """Tap after tap, turned in one copy."""
        inputs, outputs = self.shape[:2]
        vectors = -(-outputs // self.lanes)
        padded = np.zeros((inputs, vectors * self.lanes, len(self.taps)), array.dtype)
        for tap, (ky, kx) in enumerate(self.taps):
            padded[:, :outputs, tap] = array[:, :, ky, kx]
        return np.ascontiguousarray(padded.reshape(inputs, vectors, self.lanes, -1).transpose(1, 0, 3, 2))


def packing(spec: TransposedSpec, config: SlidingConfig) -> TapPacking:
    """How weights are packed."""
    taps = tuple(
        (ky, kx)
        for vertical in range(spec.strides[0])
        for horizontal in range(spec.strides[1])
        for ky in spec.taps(0, vertical)
        for kx in spec.taps(1, horizontal)
    )
    return TapPacking((spec.in_channels, spec.out_channels, *spec.kernel), taps, config.lanes)


@dataclass(frozen=True)
class _Multiply:
    """Products of every input channel with a part of the kernel."""

    spec: Conv2dSpec
    first_tap: int
    lanes: int
    data: View
    weight: View
    start: float = 0.0
    begins: bool = False
    separable: bool = False
    written_out: bool = False

    def on_data(self, vector: tirx.Expr) -> _Multiply:
        """No less work."""
        return self

    def steps(self, vector: tirx.Expr) -> int:
        """Input channels."""
        return self.spec.in_channels

    def value(
        self, image: tirx.Expr, vector: tirx.Expr, step: tirx.Expr | int, y: tirx.Expr, x: tirx.Expr
    ) -> tirx.Expr:
        """An input channel in every lane."""
        block = self.spec.in_block
        at = [image, step, y, x]
        if block > 1:
            at = [image, tirx.floordiv(step, block), y, x, tirx.floormod(step, block)]
        return broadcast(self.data.load(at), self.lanes)

    def accumulate(
        self,
        old: tirx.Expr | None,
        value: tirx.Expr,
        vector: tirx.Expr,
        step: tirx.Expr | int,
        ky: tirx.Expr,
        kx: tirx.Expr,
    ) -> tirx.Expr:
        """A fused multiply-add."""
        tap = self.first_tap + ky * self.spec.kernel[1] + kx
        return old + value * self.weight.load([vector, step, tap, ramp(0, self.lanes)])

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr, inside: bool) -> tirx.Expr:
        """The sum."""
        return total


def emit(
    spec: TransposedSpec,
    config: SlidingConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "conv_transpose",
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
    phases: list[Phase] = []
    taps = 0
    for vertical in range(spec.strides[0]):
        for horizontal in range(spec.strides[1]):
            window = spec.phase(vertical, horizontal)

            def operator(buffers: list[View], window: Conv2dSpec = window, first: int = taps) -> _Multiply:
                return _Multiply(window, first, config.lanes, buffers[0], buffers[1])

            if not any(isinstance(d, int) and d == 0 for d in (window.out_height, window.out_width)):
                phases.append(Phase(window, operator, (vertical, horizontal), spec.strides))
            taps += window.kernel[0] * window.kernel[1]
    weight = (-(-spec.out_channels // config.lanes), spec.in_channels, taps, config.lanes)
    inputs = [("data", spec.input_shape, spec.types.input), ("weight", weight, spec.types.weight)]
    return sliding_window.emit_phases(phases, spec.output_shape, config, inputs, epilogue, extras, name, style, [0])

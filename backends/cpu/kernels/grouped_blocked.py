"""Grouped convolution on channel-blocked data: a lane is an output channel.

Where a vector of output channels belongs to one group, every input channel of the group is broadcast to it. Where a vector
spans whole groups of as many inputs as outputs, the inputs lie in one vector too: for the k-th input of every group its lanes
are permuted, so that no product is wasted on small groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import sliding_config, sliding_window
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig, tile_for, whole_row, worth_threads
from graphopt.backends.cpu.kernels.vector_packing import VectorPacking
from graphopt.backends.cpu.kernels.vector_tile import broadcast, ramp
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle

_KEPT_WEIGHTS = 5
_PRODUCTS_PER_SECOND = 4e9


def supports(spec: Conv2dSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if spec.groups < 2 or spec.out_channels % spec.groups or spec.in_channels % spec.groups:
        return "needs groups"
    if _per_group(spec) == (1, 1):
        return "one channel a group: depthwise kernels do this"
    if spec.out_block % 4 or spec.out_channels % spec.out_block or spec.in_channels % spec.in_block:
        return "needs results in channel blocks of a multiple of 4"
    if min(spec.pads) < 0:
        return "negative padding"
    if min(spec.in_channels, 1, *(spec.static_plane or ())) < 1:
        return "an empty dimension"
    lanes = math.gcd(spec.out_block, spec.types.lanes(caps))
    if not _one_group(spec, lanes) and not _whole_groups(spec, lanes):
        return "vectors of channels that cut through groups"
    return None


def _per_group(spec: Conv2dSpec) -> tuple[int, int]:
    """Input and output channels a group."""
    return spec.in_channels // spec.groups, spec.out_channels // spec.groups


def _one_group(spec: Conv2dSpec, lanes: int) -> bool:
    """Whether each vector of output channels belongs to one group."""
    return _per_group(spec)[1] % lanes == 0


def _whole_groups(spec: Conv2dSpec, lanes: int) -> bool:
    """Whether each vector spans whole groups whose inputs are a vector of the data."""
    inputs, outputs = _per_group(spec)
    return inputs == outputs and lanes % outputs == 0 and spec.in_block == spec.out_block


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
    """Rough time on one core, infinite for symbolic sizes."""
    flops = spec.flops
    return math.inf if flops is None else flops / 2 / lanes / _PRODUCTS_PER_SECOND


def packing(spec: Conv2dSpec, config: SlidingConfig) -> VectorPacking:
    """How weights are packed."""
    return VectorPacking((spec.out_channels, _per_group(spec)[0], *spec.kernel), config.lanes)


@dataclass(frozen=True)
class _Multiply:
    """Products with the inputs of a vector's groups, one input a group and step."""

    spec: Conv2dSpec
    lanes: int
    data: View
    weight: View
    start: float = 0.0
    begins: bool = False
    separable: bool = False

    @property
    def written_out(self) -> bool:
        """Permutations are constants of the code."""
        return not _one_group(self.spec, self.lanes)

    def on_data(self, vector: tirx.Expr) -> _Multiply:
        """No less work."""
        return self

    def steps(self, vector: tirx.Expr) -> int:
        """Inputs a group."""
        return _per_group(self.spec)[0]

    def value(
        self, image: tirx.Expr, vector: tirx.Expr, step: tirx.Expr | int, y: tirx.Expr, x: tirx.Expr
    ) -> tirx.Expr:
        """The ``step``-th input of each lane's group."""
        spec, lanes = self.spec, self.lanes
        inputs, outputs = _per_group(spec)
        if not self.written_out:
            channel = tirx.floordiv(vector * lanes, outputs) * inputs + step
            if spec.in_block == 1:
                return broadcast(self.data.load([image, channel, y, x]), lanes)
            block, lane = tirx.floordiv(channel, spec.in_block), tirx.floormod(channel, spec.in_block)
            return broadcast(self.data.load([image, block, y, x, lane]), lanes)
        parts = spec.in_block // lanes
        first = tirx.floormod(vector, parts) * lanes
        loaded = self.data.load([image, tirx.floordiv(vector, parts), y, x, ramp(first, lanes)])
        sources = [tirx.const(lane // inputs * inputs + int(step), "int32") for lane in range(lanes)]
        return tirx.Shuffle([loaded], sources)

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
        return old + value * self.weight.load([vector, step, ky, kx, ramp(0, self.lanes)])

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr, inside: bool) -> tirx.Expr:
        """The sum."""
        return total


def emit(
    spec: Conv2dSpec,
    config: SlidingConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "grouped_blocked",
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
    weight = (spec.out_channels // config.lanes, _per_group(spec)[0], *spec.kernel, config.lanes)
    return sliding_window.emit(
        spec,
        config,
        [("data", spec.input_shape, spec.types.input), ("weight", weight, spec.types.weight)],
        lambda buffers: _Multiply(spec, config.lanes, buffers[0], buffers[1]),
        epilogue,
        extras,
        name,
        style,
        broadcast=[0] if _one_group(spec, config.lanes) else [],
    )

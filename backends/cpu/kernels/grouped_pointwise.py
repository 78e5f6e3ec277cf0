"""Grouped 1x1 convolution on plain NCHW data: a lane is a pixel.

Each group is a matrix product of its weights with its channels, whose rows lie in memory as they are. Lanes along pixels need
nothing of the number of channels a group, so groups of any size use whole vectors and no result is transposed.
The last vector of a row of pixels may overlap the one before it, which then computes the same values again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.kernels.neighbours import loaded
from graphopt.backends.cpu.kernels.sliding_config import worth_threads
from graphopt.backends.cpu.kernels.sliding_window import serial_loop
from graphopt.backends.cpu.kernels.tiling import lane_steps, split_balanced, tile_cycles
from graphopt.backends.cpu.kernels.vector_tile import (
    VectorTile,
    branch_on_tile,
    broadcast,
    column_tiles,
    largest_power,
    ramp,
)
from graphopt.backends.cpu.kernels.widened import widened
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator
from graphopt.ir.graph import Array

_MAX_VECTORS = 4
_TILE_CYCLES = 30.0
_STORE_CYCLES = 2.0


@dataclass(frozen=True)
class GroupedPointwiseConfig:
    """How to compute it.

    Attributes:
        lanes: pixels a vector.
        vectors: vectors of pixels a register tile.
        channels: output channels a register tile.
        parallel: whether tiles are shared out among threads.
        by_lane: weights that come with one load, for multiply-adds by lane; 1 for one at a time.
    """

    lanes: int
    vectors: int
    channels: int
    parallel: bool = True
    by_lane: int = 1


def supports(spec: Conv2dSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if spec.groups < 2:
        return "needs groups"
    if not spec.pointwise or not isinstance(spec.batch, int):
        return "needs a 1x1 kernel, steps of 1, no padding and known sizes"
    if spec.in_block != 1 or spec.out_block != 1:
        return "needs plain layouts"
    if min(spec.batch, spec.in_channels, spec.out_channels, _pixels(spec)) < 1:
        return "an empty dimension"
    return None


def _pixels(spec: Conv2dSpec) -> int:
    assert spec.static_plane is not None
    return spec.static_plane[0] * spec.static_plane[1]


def default_config(spec: Conv2dSpec, caps: Caps) -> GroupedPointwiseConfig:
    """The tile with the least predicted time among those that fit the register file."""
    best = min(_tiles(spec, caps), key=lambda tile: (seconds(spec, tile, caps), -tile.vectors * tile.channels))
    return replace(best, parallel=worth_threads(seconds(spec, best, caps), caps))


def configurations(spec: Conv2dSpec, caps: Caps) -> Iterator[GroupedPointwiseConfig]:
    """Tiles that fit the register file."""
    for tile in _tiles(spec, caps):
        for parallel in caps.thread_choices:
            yield replace(tile, parallel=parallel)


def _tiles(spec: Conv2dSpec, caps: Caps) -> list[GroupedPointwiseConfig]:
    pixels = _pixels(spec)
    lanes = min(spec.types.lanes(caps), largest_power(pixels))
    vectors_needed = -(-pixels // lanes)
    channels_needed = spec.out_channels // spec.groups
    # LLVM keeps the broadcast weight of every channel, and spills where those don't fit beside the accumulators
    return [
        GroupedPointwiseConfig(lanes, vectors, channels, by_lane=lane_steps(caps, spec.types.accumulator))
        for vectors in range(1, min(_MAX_VECTORS, vectors_needed) + 1)
        for channels in range(1, min(max(1, (caps.vector_registers - 1) // (vectors + 1)), channels_needed) + 1)
    ]


def _cycles(spec: Conv2dSpec, lanes: int, vectors: int, channels: int, caps: Caps) -> float:
    """Cycles for one group of one image."""
    total, by_lane = 0.0, lane_steps(caps, spec.types.accumulator)
    for width in split_balanced(-(-_pixels(spec) // lanes), vectors):
        for height in split_balanced(spec.out_channels // spec.groups, channels):
            step = tile_cycles(height.tile, width.tile, caps, by_lane)
            tile = spec.reduction * step + _TILE_CYCLES + _STORE_CYCLES * height.tile * width.tile
            total += int(width.count) * int(height.count) * tile
    return total


def seconds(spec: Conv2dSpec, config: GroupedPointwiseConfig, caps: Caps) -> float:
    """Predicted time on one core."""
    cycles = _cycles(spec, config.lanes, config.vectors, config.channels, caps)
    return int(spec.batch) * spec.groups * cycles / CLOCK


@dataclass(frozen=True)
class GroupedPacking(Packing):
    """(O, I / groups, 1, 1) weights as (groups, O / groups * I / groups), a tile of channels after the other.

    Within a tile the channels are innermost, so that a tile reads its weights in the order in which they lie.

    Attributes:
        groups: of the convolution.
        channels: most output channels of a tile.
    """

    groups: int
    channels: int

    def packed(self, array: Array) -> Array:
        """Tile after tile."""
        rows = array.reshape(self.groups, -1, self.shape[1])
        tiles = []
        for part in split_balanced(rows.shape[1], self.channels):
            for turn in range(int(part.count)):
                first = int(part.start) + turn * part.tile
                tiles.append(rows[:, first : first + part.tile].transpose(0, 2, 1).reshape(self.groups, -1))
        return np.ascontiguousarray(np.concatenate(tiles, axis=1))


def packing(spec: Conv2dSpec, config: GroupedPointwiseConfig) -> GroupedPacking:
    """How weights are packed."""
    shape = (spec.out_channels, spec.in_channels // spec.groups, 1, 1)
    return GroupedPacking(shape, spec.groups, config.channels)


def emit(
    spec: Conv2dSpec,
    config: GroupedPointwiseConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "grouped_pointwise",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data: spec.input_shape, weight: as packed, *extras, output: spec.output_shape)``.

    Args:
        spec: the problem; `supports` must accept it.
        config: the tile.
        epilogue: maps an accumulator at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    inputs, outputs = spec.in_channels // spec.groups, spec.out_channels // spec.groups

    def body(buffers: list[View], operands: list[tirx.Buffer], output: View) -> None:
        weight = widened(buffers[1], config.lanes, config.parallel)
        kernel = _Kernel(spec, config, buffers[0], weight, operands, output, epilogue or store_accumulator, style)
        tiles = column_tiles(_pixels(spec), config.lanes, config.vectors)
        loop = T.parallel if config.parallel else T.serial
        with loop(0, int(spec.batch) * spec.groups * sum(tile.count for tile in tiles)) as flat:
            total = sum(tile.count for tile in tiles)
            index, plane = tirx.floormod(flat, total), tirx.floordiv(flat, total)
            image, group = tirx.floordiv(plane, spec.groups), tirx.floormod(plane, spec.groups)

            def columns(left: tirx.Expr | int, offsets: tuple[int, ...]) -> None:
                for part in split_balanced(outputs, config.channels):
                    with serial_loop(part.count) as turn:
                        kernel.tile(image, group, part.start + turn * part.tile, part.tile, left, offsets)

            branch_on_tile(index, tiles, columns)

    packed = (spec.groups, inputs * outputs)
    operands = [("data", spec.input_shape, spec.types.input), ("weight", packed, spec.types.weight)]
    return build_prim_func(name, operands, extras, (spec.output_shape, spec.types.output), body)


@dataclass(frozen=True)
class _Kernel:
    spec: Conv2dSpec
    config: GroupedPointwiseConfig
    data: View
    weight: View
    operands: Sequence[tirx.Buffer]
    output: View
    epilogue: EpilogueFn
    style: StoreStyle

    def tile(
        self,
        image: tirx.Expr,
        group: tirx.Expr,
        first: tirx.Expr | int,
        channels: int,
        left: tirx.Expr | int,
        offsets: tuple[int, ...],
    ) -> None:
        """Emits ``channels`` output channels of a group from its ``first``, at the pixels from ``left``."""
        spec, lanes = self.spec, self.config.lanes
        inputs, outputs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
        sums = VectorTile(channels, len(offsets), lanes, self.spec.types.sum)
        sums.fill(0.0)
        with T.serial(0, inputs) as k:
            start = first * inputs + k * channels
            factors = None
            if self.config.by_lane > 1:
                factors = loaded(channels, self.config.by_lane, sums.dtype, lambda i: self.weight[group, start + i])
            for vector, offset in enumerate(offsets):
                at = [image, group * inputs + k, *self._pixel(left + offset, lanes)]
                value = self.data.load(at)
                for c in range(channels):
                    factor = self.weight.load([group, start + c]) if factors is None else factors[c]
                    sums.set(c, vector, sums.get(c, vector) + broadcast(factor, lanes) * value)

        def store(total: tirx.Expr, c: tirx.Expr | int, pixel: tirx.Expr) -> None:
            channel = group * outputs + (first + c)
            h, w = tirx.floordiv(pixel, spec.out_width), tirx.floormod(pixel, spec.out_width)
            result = self.epilogue(total, (image, channel, h, w), self.operands)
            self.output.store(result, [image, channel, h, w])

        sums.store([left + offset for offset in offsets], store, self.style)

    def _pixel(self, first: tirx.Expr | int, lanes: int) -> list[Any]:
        """Adjacent pixels as a position in the last row of an image: positions past a row's end are in the next one."""
        return [0, ramp(first, lanes)]

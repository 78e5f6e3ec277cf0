"""Transposed convolution whose windows don't overlap (kernel = stride), on plain NCHW data.

Each input pixel becomes a patch of output pixels, so this is a matrix product: rows are (output channel, place in the patch),
columns are input pixels. A lane is an input pixel; the accumulators of horizontal neighbours are interleaved as they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.kernels.neighbours import loaded
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.cpu.kernels.sliding_config import worth_threads
from graphopt.backends.cpu.kernels.sliding_window import serial_loop
from graphopt.backends.cpu.kernels.tiling import lane_steps, split_balanced, tile_cycles
from graphopt.backends.cpu.kernels.vector_tile import (
    ON_STACK,
    VectorTile,
    branch_on_tile,
    broadcast,
    column_tiles,
    largest_power,
    ramp,
)
from graphopt.backends.cpu.kernels.widened import widened
from graphopt.backends.specs.transposed_convolution import PatchSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator
from graphopt.ir.graph import Array

_MAX_VECTORS = 4
_MAX_SCALE = 4
_NOMINAL = 64
"""Columns assumed, for the choice of a tile, when they are symbolic."""

_TILE_CYCLES = 30.0
_STORE_CYCLES = 3.0


@dataclass(frozen=True)
class PatchConfig:
    """How to compute it.

    Attributes:
        lanes: input pixels a vector.
        vectors: vectors of pixels a register tile.
        lines: output lines a register tile; each takes as many accumulators a vector as a patch has columns.
        parallel: whether input rows are shared out among threads.
        by_lane: weights that come with one load, for multiply-adds by lane; 1 for one at a time.
    """

    lanes: int
    vectors: int
    lines: int
    parallel: bool = True
    by_lane: int = 1


def supports(spec: PatchSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if max(spec.scale) > _MAX_SCALE:
        return f"strides above {_MAX_SCALE}"
    known = [d for d in (*spec.input_shape, spec.out_channels) if isinstance(d, int)]
    return "an empty dimension" if min(known) < 1 else None


def default_config(spec: PatchSpec, caps: Caps) -> PatchConfig:
    """The tile with the least predicted time among those that fit the register file."""
    width = spec.width if isinstance(spec.width, int) else _NOMINAL
    tiles = _tiles(spec, caps)
    best = min(tiles, key=lambda tile: (_row_cycles(spec, tile, width, caps), -tile.vectors * tile.lines))
    return replace(best, parallel=worth_threads(seconds(spec, best, caps), caps))


def configurations(spec: PatchSpec, caps: Caps) -> Iterator[PatchConfig]:
    """Tiles that fit the register file."""
    for tile in _tiles(spec, caps):
        for parallel in caps.thread_choices:
            yield replace(tile, parallel=parallel)


def _tiles(spec: PatchSpec, caps: Caps) -> list[PatchConfig]:
    width = spec.width if isinstance(spec.width, int) else _NOMINAL
    lanes = min(spec.types.lanes(caps), largest_power(width))
    return [
        PatchConfig(lanes, vectors, lines, by_lane=lane_steps(caps, spec.types.accumulator))
        for vectors in range(1, min(_MAX_VECTORS, -(-width // lanes)) + 1)
        for lines in range(
            1, min(max(1, (caps.vector_registers - 1) // (vectors + 1) // spec.scale[1]), spec.lines) + 1
        )
    ]


def _row_cycles(spec: PatchSpec, config: PatchConfig, width: int, caps: Caps) -> float:
    """Cycles for one input row."""
    total = 0.0
    for column in split_balanced(-(-width // config.lanes), config.vectors):
        for part in split_balanced(spec.lines, config.lines):
            rows = part.tile * spec.scale[1]
            cycles = spec.in_channels * tile_cycles(rows, column.tile, caps, config.by_lane) + _TILE_CYCLES
            total += int(column.count) * int(part.count) * (cycles + _STORE_CYCLES * rows * column.tile)
    return total


def seconds(spec: PatchSpec, config: PatchConfig, caps: Caps) -> float:
    """Predicted time on one core, infinite for symbolic sizes."""
    if not (isinstance(spec.batch, int) and isinstance(spec.height, int) and isinstance(spec.width, int)):
        return math.inf
    return spec.batch * spec.height * _row_cycles(spec, config, spec.width, caps) / CLOCK


@dataclass(frozen=True)
class LinePacking(Packing):
    """(I, O, rows, columns) weights tile after tile, inputs outermost in each.

    Attributes:
        lines: most lines of a tile, a line being a row of one output channel's kernel.
    """

    lines: int

    def packed(self, array: Array) -> Array:
        """Tile after tile."""
        inputs, outputs, rows, columns = self.shape
        lines = array.reshape(inputs, outputs * rows, columns)
        tiles = []
        for part in split_balanced(outputs * rows, self.lines):
            for turn in range(int(part.count)):
                first = int(part.start) + turn * part.tile
                tiles.append(lines[:, first : first + part.tile].reshape(-1))
        return np.ascontiguousarray(np.concatenate(tiles))


def packing(spec: PatchSpec, config: PatchConfig) -> LinePacking:
    """How weights are packed."""
    return LinePacking((spec.in_channels, spec.out_channels, *spec.scale), config.lines)


def emit(
    spec: PatchSpec,
    config: PatchConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "patch_upsample",
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

    def body(buffers: list[View], operands: list[tirx.Buffer], output: View) -> None:
        weight = widened(buffers[1], config.lanes, config.parallel)
        kernel = _Kernel(spec, config, buffers[0], weight, operands, output, epilogue or store_accumulator, style)
        loop = T.parallel if config.parallel else T.serial
        symbolic = not isinstance(spec.height, int)
        height = bind(spec.height)
        with loop(0, spec.batch * height) as flat:
            kernel.row(bind(tirx.floordiv(flat, height), symbolic), bind(tirx.floormod(flat, height), symbolic))

    packed = (spec.in_channels * spec.lines * spec.scale[1],)
    inputs = [("data", spec.input_shape, spec.types.input), ("weight", packed, spec.types.weight)]
    return build_prim_func(name, inputs, extras, (spec.output_shape, spec.types.output), body)


@dataclass(frozen=True)
class _Kernel:
    spec: PatchSpec
    config: PatchConfig
    data: View
    weight: View
    operands: Sequence[tirx.Buffer]
    output: View
    epilogue: EpilogueFn
    style: StoreStyle

    def row(self, image: tirx.Expr, row: tirx.Expr) -> None:
        """Emits everything that one input row becomes."""
        spec, config = self.spec, self.config

        def lines(left: tirx.Expr | int, lanes: int, offsets: tuple[int, ...]) -> None:
            for part in split_balanced(spec.lines, config.lines):
                with serial_loop(part.count) as turn:
                    self._tile(image, row, part.start + turn * part.tile, part.tile, left, lanes, offsets)

        if isinstance(spec.width, int):
            tiles = column_tiles(spec.width, config.lanes, config.vectors)
            with serial_loop(sum(tile.count for tile in tiles)) as index:
                branch_on_tile(index, tiles, lambda left, offsets: lines(left, config.lanes, offsets))
            return
        start: tirx.Expr | int = 0
        for lanes, vectors in dict.fromkeys(((config.lanes, config.vectors), (config.lanes, 1), (1, 1))):
            width = lanes * vectors
            count = bind(tirx.floordiv(spec.width - start, width))
            with T.serial(0, count) as index:
                lines(bind(start + index * width), lanes, tuple(range(0, width, lanes)))
            start = bind(start + count * width)

    def _tile(
        self,
        image: tirx.Expr,
        row: tirx.Expr,
        first: tirx.Expr | int,
        lines: int,
        left: tirx.Expr | int,
        lanes: int,
        offsets: tuple[int, ...],
    ) -> None:
        """Emits ``lines`` output lines from the ``first`` at the input columns from ``left``."""
        spec = self.spec
        patch = spec.scale[1]
        sums = VectorTile(lines * patch, len(offsets), lanes, spec.types.sum)
        sums.fill(0.0)
        with T.serial(0, spec.in_channels) as k:
            start = (first * spec.in_channels + k * lines) * patch
            factors = None
            if self.config.by_lane > 1:
                factors = loaded(lines * patch, self.config.by_lane, sums.dtype, lambda i: self.weight[start + i])
            for vector, offset in enumerate(offsets):
                value = self.data.load([image, k, row, ramp(left + offset, lanes)])
                for place in range(lines * patch):
                    factor = broadcast(self.weight.load([start + place]) if factors is None else factors[place], lanes)
                    sums.set(place, vector, sums.get(place, vector) + factor * value)
        staged = T.alloc_buffer((len(offsets), lines, lanes * patch), sums.dtype, scope="local", annotations=ON_STACK)
        for vector in range(len(offsets)):
            for line in range(lines):
                parts = [sums.get(line * patch + b, vector) for b in range(patch)]
                if lanes == 1:
                    for b, part in enumerate(parts):
                        T.buffer_store(staged, part, [vector, line, b])
                else:
                    order = [tirx.const(b * lanes + lane, "int32") for lane in range(lanes) for b in range(patch)]
                    joined = tirx.Shuffle(parts, order) if patch > 1 else parts[0]
                    T.buffer_store(staged, joined, [vector, line, ramp(0, lanes * patch)])
        across = T.serial if self.style is StoreStyle.scalar or lanes == 1 else T.vectorized
        down = T.unroll if self.style is StoreStyle.unrolled else T.serial
        for vector, offset in enumerate(offsets):
            with down(0, lines) as line, down(0, patch) as part, across(0, lanes) as lane:
                channel = tirx.floordiv(first + line, spec.scale[0])
                h = row * spec.scale[0] + tirx.floormod(first + line, spec.scale[0])
                w = (left + offset) * patch + part * lanes + lane
                result = self.epilogue(staged[vector, line, part * lanes + lane], (image, channel, h, w), self.operands)
                self.output.store(result, [image, channel, h, w])

"""Tiles of matrix products and what they take: products, shared memory, caches, memory, and how evenly blocks fill the device.

The largest of what a block's steps need of each resource is what they take while as many blocks as fit share a multiprocessor;
whole waves of blocks follow one another. What no other block hides, a block's way in and out, is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from graphopt.backends.base.caps import Caps
from graphopt.backends.cuda.cost.chips import Chip, chip_of
from graphopt.backends.cuda.kernels.gemm_config import ROW_BYTES, GemmConfig
from graphopt.backends.cuda.kernels.products import COLUMNS, ROWS, Product
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec

LAUNCH_SECONDS = 2.5e-6
"""Of a kernel in a graph of launches, its beginning and end included."""
_SYMBOLIC_ROWS = 1024
_SYMBOLIC_EXTENT = 56
"""Elements along a spatial axis that is symbolic."""
_MOST_SUMS = 128
"""Accumulators a thread: with fragments and positions beside them, 255 registers hold no more."""
_REGISTERS = 65536
_FIXED_REGISTERS = 64
"""Of a thread for positions and addresses."""
_SHARED_BYTES_A_CYCLE = 128
_LATENCY = 600
"""Cycles from the request of data in memory to their arrival in shared memory."""
_STEP_LATENCY = 90
"""Cycles of a barrier, of the way from shared memory into fragments and through the tensor cores."""
_CYCLES_APART = 2.0
"""Between instructions of one warp, as they depend on one another."""
_MOST_STAGES = 4
_SHAPES = (
    (256, 128, 4, 2), (128, 256, 2, 4), (192, 128, 4, 2), (128, 128, 2, 2), (128, 128, 2, 4), (96, 128, 2, 2),
    (256, 64, 4, 1), (64, 256, 1, 4), (128, 64, 2, 2), (96, 64, 2, 2),
    (64, 128, 2, 2), (64, 64, 2, 2), (128, 32, 4, 1), (32, 128, 1, 4), (64, 32, 2, 1), (32, 64, 1, 2), (32, 32, 1, 1),
    (64, 16, 4, 1), (16, 128, 1, 4), (16, 64, 1, 2),
)  # fmt: skip
"""Rows, columns, warps along both; columns are powers of two, as `place_in_rows` wants them."""
_LANE_SHAPES = (
    (128, 128, 2, 4), (128, 64, 2, 2), (64, 128, 2, 2), (64, 64, 2, 2), (32, 128, 1, 4), (32, 32, 1, 1), (64, 16, 4, 1),
    (16, 128, 1, 4), (16, 64, 1, 2),
)  # fmt: skip
"""The same without tensor cores: those that the compiler finds registers for."""
_SLICES = (2, 3, 4, 6, 8, 12, 16)
_FEWEST_STEPS = 4
"""Of a slice."""
_MOST_SLICED = 4
"""Blocks a multiprocessor up to which slices may help."""


def configurations(spec: ImplicitGemmSpec, product: Product, caps: Caps) -> Iterator[GemmConfig]:
    """Tiles that fit the registers and the shared memory."""
    steps = -(-spec.depth * product.element // ROW_BYTES)
    for rows, columns, warp_rows, warp_columns in _SHAPES if product.function else _LANE_SHAPES:
        tile = GemmConfig(product.name, rows, columns, warp_rows, warp_columns, 2)
        if tile.tile_rows * tile.tile_columns // 32 > _MOST_SUMS:
            continue
        most = min(_MOST_STAGES, max(2, steps), caps.shared_memory_bytes // tile.stage_bytes)
        # fewer stages leave room for more blocks, and nothing else: two numbers of them are choice enough
        for stages in range(most, max(1, most - 2), -1):
            config = replace(tile, stages=stages)
            if config.shared_bytes > caps.shared_memory_bytes:
                continue
            yield config
            if spec.static_rows is not None and stages == _MOST_STAGES:
                tiles = block_count(spec, config)
                for slices in _SLICES:
                    if steps >= slices * _FEWEST_STEPS and tiles * slices <= _MOST_SLICED * caps.cores:
                        yield replace(config, slices=slices)


def default_config(spec: ImplicitGemmSpec, product: Product, caps: Caps, others: int = 0) -> GemmConfig:
    """The tiles with the least predicted time; arguments as of `seconds`."""
    return _default(_nominal(spec), product, caps, others, spec.static_rows is not None)


@lru_cache(maxsize=4096)
def _default(spec: ImplicitGemmSpec, product: Product, caps: Caps, others: int, slices: bool) -> GemmConfig:
    found = (c for c in configurations(spec, product, caps) if slices or c.slices == 1)
    return min(found, key=lambda c: (seconds(spec, c, caps, others), c.block_rows * c.block_columns, -c.stages))


def seconds(spec: ImplicitGemmSpec, config: GemmConfig, caps: Caps, others: int = 0) -> float:
    """Predicted time, a launch included; a symbolic number of rows is taken for a usual one.

    Args:
        others: bytes of the operands that the epilogue reads.
    """
    chip = chip_of(caps)
    spec = _nominal(spec)
    blocks = block_count(spec, config)
    resident = resident_blocks(config, chip)
    busy = min(resident, -(-blocks // chip.multiprocessors))
    waves = blocks / (chip.multiprocessors * busy)
    # a wave that is not full takes as long as a full one
    waves = math.ceil(waves) if waves < 4 else waves + 0.5
    steps = math.ceil(math.ceil(spec.depth / config.step) / config.slices)
    cycles = waves * (steps * step_cycles(spec, config, chip, busy) + _edge_cycles(spec, config, chip, busy))
    memory = (moved_bytes(spec, config) + others) / chip.memory
    return max(cycles / chip.clock, memory) + LAUNCH_SECONDS


def block_count(spec: ImplicitGemmSpec, config: GemmConfig) -> int:
    """Blocks of a launch."""
    assert spec.static_rows is not None
    tiles = -(-spec.static_rows // config.block_rows) * -(-spec.columns // config.block_columns) * spec.parts
    return tiles * config.slices


def resident_blocks(config: GemmConfig, chip: Chip) -> int:
    """Blocks that a multiprocessor keeps at once (occupancy), by shared memory, registers and threads."""
    fragments = (config.tile_rows // ROWS) * 4 + (config.tile_columns // COLUMNS) * 2
    registers = config.tile_rows * config.tile_columns // 32 + fragments + _FIXED_REGISTERS
    by_registers = _REGISTERS // (min(registers, 255) * config.threads)
    by_shared = chip.shared // (config.shared_bytes + 1024)
    return max(1, min(by_registers, by_shared, chip.threads // config.threads, 16))


def step_cycles(spec: ImplicitGemmSpec, config: GemmConfig, chip: Chip, busy: int) -> float:
    """Of a step of the reduction, for all the blocks that share a multiprocessor."""
    products = config.block_rows * config.block_columns * config.step / chip.rate(config.product)
    warps = config.warp_rows * config.warp_columns
    read = warps * (config.tile_rows + config.tile_columns) * ROW_BYTES
    shared = (read + config.stage_bytes) / _SHARED_BYTES_A_CYCLE
    cache = config.stage_bytes / chip.l2
    issued = _instructions(spec, config) / 4
    return max(
        busy * max(products, shared, cache, issued),
        _STEP_LATENCY,
        _LATENCY / (config.stages - 1),
        _CYCLES_APART * issued * 4 / warps,
    )


def _instructions(spec: ImplicitGemmSpec, config: GemmConfig) -> float:
    """That the warps of a block issue in a step."""
    warps = config.warp_rows * config.warp_columns
    own = (config.tile_rows // ROWS) * (config.tile_columns // COLUMNS) * 2
    loads = 2 * (config.tile_rows // ROWS + config.tile_columns // (2 * COLUMNS))
    copies = config.stage_bytes / (16 * config.threads)
    return warps * (own + 3 * loads + copies * _copy_instructions(spec, config) + 20)


def _copy_instructions(spec: ImplicitGemmSpec, config: GemmConfig) -> float:
    """Of a thread for 16 bytes of an operand: one by one where channels aren't neighbours, or too few of them."""
    together = math.gcd(spec.group_channels, spec.in_channels) * config.kind.element
    if not spec.data_last and spec.windows:
        return 12.0 * 16 / config.kind.element
    if together % 16 == 0:
        return 8.0
    return 12.0 * 16 / (next((width for width in (8, 4) if together % width == 0), config.kind.element))


def _edge_cycles(spec: ImplicitGemmSpec, config: GemmConfig, chip: Chip, busy: int) -> float:
    """Of a block's way in and out."""
    stored = config.block_rows * config.block_columns * (spec.types.output.bytes + 8) / _SHARED_BYTES_A_CYCLE
    if config.slices > 1:
        # sums on their way to the second-level cache, and those of all slices on their way back to the last block
        part = config.block_rows * config.block_columns * 4
        stored += part * (1 + config.slices) / chip.l2
        stored += 3 * _LATENCY / busy
    return _LATENCY + 400 + busy * stored


def moved_bytes(spec: ImplicitGemmSpec, config: GemmConfig) -> float:
    """From and to memory, each operand and the result once."""
    data = math.prod(int(d) for d in spec.data_shape) * spec.types.input.bytes
    weights = spec.out_channels * spec.depth * config.kind.element
    return float(data + weights + math.prod(int(d) for d in spec.result_shape) * spec.types.output.bytes)


def _nominal(spec: ImplicitGemmSpec) -> ImplicitGemmSpec:
    """The problem with usual numbers in place of symbolic ones."""
    if all(isinstance(d, int) for d in spec.data_shape):
        return spec
    if not spec.windows:
        return replace(spec, batch=_SYMBOLIC_ROWS)
    windows = tuple(w if isinstance(w.extent, int) else replace(w, extent=_SYMBOLIC_EXTENT) for w in spec.windows)
    return replace(spec, batch=spec.batch if isinstance(spec.batch, int) else 1, windows=windows)

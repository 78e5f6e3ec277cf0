"""The cost model of Winograd convolution, and the configuration that it prefers.

It counts multiply-adds at the rate of the register tile, vector operations of the transforms, and the bytes that don't stay in
the second-level cache: transformed weights, which are 16/9 or 4 times as large as the weights, pass once a block of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import slots_of, temporaries_of
from graphopt.backends.cpu.cost.constants import LAST_LEVEL_BYTES_PER_CYCLE, fork_cycles, stream_cycles
from graphopt.backends.cpu.cost.direct import dot_product_of, vector_lanes
from graphopt.backends.cpu.kernels.tiling import register_tiles, split_balanced, tile_cycles
from graphopt.backends.cpu.kernels.winograd_integers import SUM_BITS
from graphopt.backends.cpu.kernels.winograd_tile import WinogradConfig
from graphopt.backends.specs.convolution import Conv2dSpec

_MAX_VECTORS = 4
_MAX_TILES = 64
"""Tiles of one image up to which threads share a block and split the channels."""
_MAX_BLOCK = 56
_TILE_CYCLES = 20.0
_STORE_CYCLES = 2.0
_LOAD_CYCLES = 0.5
"""For a vector of weights, which comes from the second-level cache at every step."""
_STALL = 1.15
"""Measured over predicted time of the products."""
_TRANSFORM_CYCLES = {2: (40.0, 35.0), 4: (250.0, 220.0)}
"""Measured for a patch and a vector of channels, in and out, by m."""
_INTEGER_TRANSFORM_CYCLES = {2: (40.0, 40.0), 4: (150.0, 240.0)}
"""The same for integers, whose patches have 16 bits: twice as many channels in a vector."""


def default_config(spec: Conv2dSpec, caps: Caps) -> WinogradConfig:
    """The configuration with the least predicted time."""
    return min(configurations(spec, caps), key=lambda config: (predicted_cycles(spec, config, caps), config.block))


def configurations(spec: Conv2dSpec, caps: Caps) -> Iterator[WinogradConfig]:
    """Both sizes of tiles, the widest register tiles, and how many tiles and panels are worked on together."""
    lanes = vector_lanes(spec, caps)
    vectors_needed = -(-spec.out_channels // lanes)
    dot = dot_product_of(spec, caps) if spec.types.of_integers else ""
    tiles_of_registers = _widest(
        register_tiles(caps.vector_registers, min(_MAX_VECTORS, vectors_needed), 32, temporaries_of(dot))
    )
    for m in fitting_tiles(spec):
        tiles = _tiles(spec, m)
        for points, vectors in tiles_of_registers:
            panels = -(-spec.out_channels // (vectors * lanes))
            static = spec.static_plane is not None and isinstance(spec.batch, int)
            if static and tiles <= _MAX_TILES:
                for groups in {min(panels, caps.cores * parts) for parts in (1, 2, 4)} | {panels}:
                    group = -(-panels // groups)
                    config = WinogradConfig(m, lanes, vectors, min(points, tiles), tiles, group, by_group=True, dot=dot)
                    yield from (config, replace(config, private=True))
            if tiles > points or not static:
                for block in range(points, _MAX_BLOCK + 1, points):
                    for group in {1, -(-panels // 4), -(-panels // 2), panels}:
                        yield WinogradConfig(m, lanes, vectors, points, block, group, dot=dot)


def fitting_tiles(spec: Conv2dSpec) -> list[int]:
    """Sizes of tiles with which the problem can be solved: of integers, those that leave enough bits for its sums."""
    return [m for m in (2, 4) if not spec.types.of_integers or spec.sum_bits <= SUM_BITS[m]]


def _widest(tiles: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """For each number of vectors, the most points."""
    best: dict[int, int] = {}
    for points, vectors in tiles:
        best[vectors] = max(best.get(vectors, 0), points)
    return [(points, vectors) for vectors, points in best.items()]


def predicted_cycles(spec: Conv2dSpec, config: WinogradConfig, caps: Caps) -> float:
    """Cycles of the whole convolution on all cores of ``caps``."""
    tiles = _tiles(spec, config.m)
    blocks = -(-tiles // config.block)
    components = config.side**2
    panels = -(-spec.out_channels // config.panel)
    groups = -(-panels // config.group)
    multiply = 0.0
    for part in split_balanced(config.block, config.points):
        products = slots_of(config.dot) * tile_cycles(part.tile, config.oc_vectors)
        step = _STALL * products + _LOAD_CYCLES * config.oc_vectors
        store = _TILE_CYCLES + _STORE_CYCLES * part.tile * config.oc_vectors
        multiply += int(part.count) * (spec.in_channels / config.together * step + store)
    multiply *= components * panels
    factor_bytes = 4.0 / config.together
    weights = factor_bytes * components * spec.in_channels * panels * config.panel
    patches = factor_bytes * components * config.block * spec.in_channels
    products = 4.0 * components * config.block * config.group * config.panel
    spilled = 0.0
    if patches + products > 0.6 * caps.l2_bytes:
        spilled = ((1 + groups) * patches + 2 * groups * products) / LAST_LEVEL_BYTES_PER_CYCLE
    into, out = (_INTEGER_TRANSFORM_CYCLES if config.dot else _TRANSFORM_CYCLES)[config.m]
    lanes = spec.types.lanes(caps)
    in_lanes, out_lanes = math.gcd(config.together * lanes, spec.in_block), math.gcd(lanes, spec.out_block)
    into *= config.block * spec.in_channels / in_lanes
    out *= config.block * spec.out_channels / out_lanes
    if config.by_group:
        turns = -(-groups // caps.cores)
        share = turns / groups
        busy = max(multiply * share, stream_cycles(weights * share, caps)) + (out + spilled) * share + fork_cycles(caps)
        if config.private:
            return busy + turns * into
        fetched = 2 * patches * (caps.cores - 1) / caps.cores / LAST_LEVEL_BYTES_PER_CYCLE
        return busy + into / caps.cores + fetched + fork_cycles(caps)
    rounds = -(-blocks // caps.cores)
    return rounds * (max(multiply, stream_cycles(weights, caps)) + into + out + spilled) + fork_cycles(caps)


def _tiles(spec: Conv2dSpec, m: int) -> int:
    """Tiles of the whole batch, of a typical one where sizes are symbolic."""
    images, rows, columns = spec.assumed
    return images * -(-rows // m) * -(-columns // m)

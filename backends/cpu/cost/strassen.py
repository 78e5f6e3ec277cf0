"""The cost model of Strassen's matrix products, and the configuration that it prefers.

It counts multiply-adds at the rate of the register tile, vector operations of the sums before and after, and the bytes that don't
stay in the second-level cache; transformed weights, 7/4 or 49/16 times as large as the weights, pass once a block of rows, the
first time from memory, which all threads share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphopt.backends.base.caps import Caps
from graphopt.backends.cpu.cost.constants import LAST_LEVEL_BYTES_PER_CYCLE, fork_cycles, stream_cycles
from graphopt.backends.cpu.kernels.strassen_tile import StrassenConfig, fitting_levels
from graphopt.backends.cpu.kernels.tiling import lane_steps, register_tiles, split_balanced, tile_cycles
from graphopt.backends.specs.matmul import MatmulSpec

_MOST_VECTORS = 4
_TILE_CYCLES = 20.0
_STORE_CYCLES = 2.0
_WORTH = 1.01
"""What each level has to save for its rounding errors and its larger weights to be worth it."""
_CACHED = 0.6
"""Of the second-level cache, what a block of rows may take."""
_INTO_CYCLES = {1: 10.0, 2: 96.0}
"""For the sums of a vector of each part of the first matrix, by level."""
_OUT_CYCLES = {1: 6.0, 2: 46.0}
"""For the sums of a vector of each product, by level, over the stores of the result."""


def default_config(spec: MatmulSpec, caps: Caps, together: int = 1) -> StrassenConfig:
    """The configuration with the least predicted time; steps are cut in multiples of ``together``."""
    return min(configurations(spec, caps, together), key=lambda config: predicted_cycles(spec, config, caps))


def configurations(spec: MatmulSpec, caps: Caps, together: int = 1) -> Iterator[StrassenConfig]:
    """Levels of recursion, the widest register tiles, and how many rows and panels are worked on together."""
    lanes = spec.types.lanes(caps)
    by_lane = lane_steps(caps, spec.types.accumulator)
    assert spec.static_m is not None
    for levels in fitting_levels(spec, caps, together):
        parts = 2**levels
        rows = -(-spec.static_m // parts)
        vectors_needed = -(-spec.n // (parts * lanes))
        best: dict[int, int] = {}
        for points, vectors in register_tiles(caps, min(_MOST_VECTORS, vectors_needed), rows, 0, by_lane):
            best[vectors] = max(best.get(vectors, 0), points)
        for vectors, points in best.items():
            panels = -(-spec.n // (parts * vectors * lanes))
            for block in _blocks(rows, points):
                for parallel in caps.thread_choices:
                    for groups in {min(panels, caps.cores * count) for count in (1, 2, 4, 8)} | {panels}:
                        group = -(-panels // groups)
                        yield StrassenConfig(levels, lanes, vectors, points, block, group, parallel, parallel, by_lane)
                        if parallel and block < rows:
                            yield StrassenConfig(levels, lanes, vectors, points, block, group, False, True, by_lane)


def _blocks(rows: int, points: int) -> list[int]:
    """Rows that may go through all stages together: all of them, and about 4/5 as many as the last time down to a tile's."""
    blocks = [rows]
    while blocks[-1] > points:
        rounds = -(-rows // max(points, blocks[-1] * 4 // 5))
        blocks.append(min(-(-rows // rounds), blocks[-1] - 1))
    return blocks


def predicted_cycles(spec: MatmulSpec, config: StrassenConfig, caps: Caps) -> float:
    """Cycles of the whole product on all cores of ``caps``, and what it has to save besides."""
    assert spec.static_m is not None
    levels, parts, lanes = config.levels, config.parts, config.lanes
    rounds = -(-spec.static_m // (parts * config.block))
    panels = config.part_columns(spec.n) // config.panel
    groups = -(-panels // config.group)
    steps = spec.k // parts
    multiply = 0.0
    for segment in split_balanced(config.block, config.m_tile):
        step = tile_cycles(segment.tile, config.n_vectors, caps, config.by_lane)
        store = _TILE_CYCLES + _STORE_CYCLES * segment.tile * config.n_vectors
        multiply += int(segment.count) * (steps * step + store)
    multiply *= config.products * panels
    into = _INTO_CYCLES[levels] * config.block * steps / lanes
    out = (_OUT_CYCLES[levels] + _STORE_CYCLES * parts**2) * config.block * panels * config.n_vectors
    factors = spec.types.accumulator.bytes * config.products * config.block * steps
    products = spec.types.accumulator.bytes * config.products * config.block * config.group * config.panel
    spilled = 0.0
    if factors + products > _CACHED * caps.l2_bytes:
        spilled = ((1 + groups) * factors + 2 * groups * products) / LAST_LEVEL_BYTES_PER_CYCLE
    cores = caps.cores if config.parallel else 1
    weights = float(spec.types.accumulator.bytes * config.products * steps * panels * config.panel)
    first = cores * stream_cycles(weights, caps)  # all threads read from one memory
    again = weights / LAST_LEVEL_BYTES_PER_CYCLE if weights <= caps.l3_bytes else first
    if config.by_group:
        share = math.ceil(groups / cores) / groups
        busy = max(multiply * share, first / cores) + (rounds - 1) * max(multiply * share, again / cores)
        busy += rounds * ((out + spilled) * share + into / cores + 2 * fork_cycles(caps))
    else:
        turns = math.ceil(rounds / cores)
        busy = max(multiply, first) + (turns - 1) * max(multiply, again)
        busy += turns * (into + out + spilled) + (fork_cycles(caps) if cores > 1 else 0.0)
    return busy * _WORTH**levels

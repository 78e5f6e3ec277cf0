"""The cost model of direct convolution, and the tile that it prefers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import multiplied_together, slots_of, temporaries_of
from graphopt.backends.cpu.cost.constants import L2_BYTES_PER_CYCLE, fork_cycles, stream_cycles
from graphopt.backends.cpu.kernels.conv2d_tile import Conv2dConfig, computed_form, plane, segments
from graphopt.backends.cpu.kernels.settling import SETTLE_CYCLES, SETTLED_VECTORS, settlings
from graphopt.backends.cpu.kernels.tiling import lane_steps, register_tiles, split_balanced, tile_cycles
from graphopt.backends.specs.convolution import Conv2dSpec, channel_group
from graphopt.backends.specs.dot_products import dot_product_for

_MAX_VECTORS = 8
_MAX_CODE = 3000
"""Most vector multiply-adds in the text of a kernel, all its tile variants together: about 0.4 s of compile time."""

_LEAST_OPEN = 4
"""Rows and columns of open planes that tiles are chosen for at least: what suits a single point is slow with all others."""

_LONGEST_ROW = 7
"""Inputs that a kernel's row reaches over up to which a plain row of them is kept in registers."""

_STORE_CYCLES = 2.0
_PLAIN_STORE_CYCLES = 7.0
"""For an accumulator that is turned on its way into a plain output: measured on AVX-512."""
_TILE_CYCLES = 20.0
_TOGETHER = (4, 2)
"""Channels of 8 or 16 bits that dot products multiply at once."""


def default_config(spec: Conv2dSpec, caps: Caps) -> Conv2dConfig:
    """The tile with the least predicted time among those that fit the register file of ``caps``."""
    ranked = sorted(_tiles(spec, caps), key=lambda tile: (predicted_cycles(spec, tile, caps), -tile.accumulators))
    best = next((config for config in ranked if _code_size(spec, config) <= _MAX_CODE), None)
    best = best or min(ranked, key=lambda config: _code_size(spec, config))
    symbolic = spec.flops is None
    parallel = caps.cores > 1 and (
        symbolic or predicted_cycles(spec, best, caps) < predicted_cycles(spec, best, replace(caps, cores=1))
    )
    return replace(best, cache_tiles=_cached_tiles(spec, best, caps), parallel=parallel)


def configurations(spec: Conv2dSpec, caps: Caps) -> Iterator[Conv2dConfig]:
    """Tiles whose code is short enough, with and without blocks for the cache and threads."""
    tiles = _tiles(spec, caps)
    sizes = [_code_size(spec, tile) for tile in tiles]
    for tile, size in zip(tiles, sizes):
        if size <= max(_MAX_CODE, min(sizes)):
            for cache_tiles in dict.fromkeys((_cached_tiles(spec, tile, caps), 0)):
                for parallel in caps.thread_choices:
                    yield replace(tile, cache_tiles=cache_tiles, parallel=parallel)


def _tiles(spec: Conv2dSpec, caps: Caps) -> list[Conv2dConfig]:
    """Register tiles that fit the register file and the plane: rows of pixels, or whole rows."""
    lanes = vector_lanes(spec, caps)
    vectors_needed = -(-spec.out_channels // lanes)
    out_rows, out_columns = _nominal_plane(spec)
    dot = dot_product_of(spec, caps)
    by_lane = channels_by_lane(spec, caps, dot)
    found = []
    turns = (
        channel_group(spec, multiplied_together(dot)) // multiplied_together(dot) // by_lane
        if spec.in_block > 1
        else None
    )
    most = min(_MAX_VECTORS, vectors_needed)
    tiles = list(register_tiles(caps, most, 32, temporaries_of(dot), by_lane, turns))
    if spec.types.most_added(spec.reduction) and by_lane > 1:
        tiles = [tile for tile in tiles if tile[1] == min(most, SETTLED_VECTORS)]
    for points, vectors in tiles:
        if points <= out_columns:
            found.append(
                Conv2dConfig(lanes, vectors, points, dot=dot, by_lane=by_lane, prefetch=not caps.fetches_ahead)
            )
        if spec.static_plane and points % out_columns == 0 and 1 < points // out_columns <= out_rows:
            found.append(
                Conv2dConfig(
                    lanes,
                    vectors,
                    out_columns,
                    points // out_columns,
                    dot=dot,
                    by_lane=by_lane,
                    prefetch=not caps.fetches_ahead,
                )
            )
    return found


def channels_by_lane(spec: Conv2dSpec, caps: Caps, dot: str) -> int:
    """Channels of a block, or pixels of a plain row, that are loaded as a vector for multiply-adds by lane; 1 where none are.

    Inputs of kernels that reach far along a row would take too many registers.
    """
    steps = lane_steps(caps, spec.types.accumulator, dot)
    if spec.in_block == 1:
        reach = (spec.kernel[1] - 1) * spec.dilations[1] + 1
        return steps if reach <= _LONGEST_ROW else 1
    groups = spec.in_block // multiplied_together(dot)
    while groups % steps:
        steps //= 2
    return steps


def dot_product_of(spec: Conv2dSpec, caps: Caps) -> str:
    """Name of the dot product that multiplies channels; empty without one.

    The instruction fills whole registers.
    """
    if vector_lanes(spec, caps) != spec.types.lanes(caps) or spec.slices is not None:
        return ""
    for together in _TOGETHER:
        channels = spec.in_block if spec.in_block > 1 else channel_group(spec, together)
        name = dot_product_for(spec.types, channels, caps) if channels else ""
        if name:
            return name
    return ""


def vector_lanes(spec: Conv2dSpec, caps: Caps) -> int:
    """Lanes of an accumulator: a register's, fewer if there are no more channels or blocks are no multiple or divisor of it."""
    lanes = min(spec.types.lanes(caps), max(4, 1 << (spec.out_channels - 1).bit_length()))
    if spec.out_block > 1 and lanes % spec.out_block:
        return math.gcd(spec.out_block, lanes)
    return lanes


def predicted_cycles(spec: Conv2dSpec, config: Conv2dConfig, caps: Caps) -> float:
    """Cycles of the whole convolution on all cores of ``caps``."""
    spec = computed_form(spec, config)
    panels = -(-spec.out_channels // config.oc_panel)
    weights = float(spec.types.weight.bytes * spec.reduction * panels * config.oc_panel)
    compute = spec.assumed[0] * panels * _panel_cycles(spec, config, caps)
    return max(compute, stream_cycles(weights, caps)) / caps.cores + fork_cycles(caps)


def _panel_cycles(spec: Conv2dSpec, config: Conv2dConfig, caps: Caps) -> float:
    """Cycles for one panel of output channels of one image on one core."""
    out_rows, out_columns = _nominal_plane(spec)
    stream = 0.0
    row_bytes = config.oc_panel * spec.types.weight.bytes * config.together  # of weights, a step
    steps = -(-spec.reduction // config.together)
    if steps * row_bytes > caps.l1_bytes // 2:  # each tile fetches the weights from L2 again
        stream = row_bytes / L2_BYTES_PER_CYCLE
    group = channel_group(spec, config.together)
    settled = settlings(
        spec.types.most_added(spec.reduction), group // config.together, spec.kernel, -(-spec.in_channels // group)
    )
    total = 0.0
    for row in split_balanced(out_rows, config.oh_tile):
        for column in split_balanced(out_columns, config.ow_tile):
            points = row.tile * column.tile
            step = max(slots_of(config.dot) * tile_cycles(points, config.oc_vectors, caps, config.by_lane), stream)
            each = _PLAIN_STORE_CYCLES if spec.out_block == 1 else _STORE_CYCLES
            store = _TILE_CYCLES + (each + settled * SETTLE_CYCLES) * points * config.oc_vectors
            total += int(row.count) * int(column.count) * (steps * step + store)
    return total


def _code_size(spec: Conv2dSpec, config: Conv2dConfig) -> int:
    """Vector multiply-adds in the text of the kernel: tiles that touch padding have each kernel element written out."""
    spec = computed_form(spec, config)
    rows, columns = segments(spec, config)
    total = 0
    for row in rows:
        for column in columns:
            taps = (spec.kernel[0] if row.taps else 1) * (spec.kernel[1] if column.taps else 1)
            total += taps * row.tile * column.tile * config.oc_vectors
    return total


def _cached_tiles(spec: Conv2dSpec, config: Conv2dConfig, caps: Caps) -> int:
    """Spatial tiles whose input fits half of L2, a whole number of rows; 0 if that is all of them."""
    spec = computed_form(spec, config)
    out_rows, out_columns = _nominal_plane(spec)
    columns = -(-out_columns // config.ow_tile)
    rows = -(-out_rows // config.oh_tile)
    pixels = config.oh_tile * config.ow_tile * spec.strides[0] * spec.strides[1]
    fitting = max(caps.l2_bytes // 2 // (4 * spec.in_channels * pixels), 1)
    if spec.static_plane and fitting >= rows * columns:
        return 0
    whole, each = (rows, columns) if rows > 1 else (columns, 1)
    blocks = -(-whole * each // fitting)
    blocks = -(-blocks // caps.cores) * caps.cores  # every thread gets as many, and the last is no mere rest
    return max(-(-whole // blocks), 1) * each


def _nominal_plane(spec: Conv2dSpec) -> tuple[int, int]:
    """As `plane`, with the size that is assumed in place of a symbolic one."""
    if spec.pointwise:
        rows, columns = plane(spec)
        assert isinstance(rows, int)
        assert isinstance(columns, int)
        return rows, columns
    known = spec.out_height, spec.out_width
    rows, columns = (n if isinstance(d, int) else max(n, _LEAST_OPEN) for d, n in zip(known, spec.assumed[1:]))
    return rows, columns

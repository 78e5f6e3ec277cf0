"""The cost model of Winograd convolution, and the configuration that it prefers.

It counts multiply-adds at the rate of the register tile, vector operations of the transforms, and the bytes that don't stay in
the second-level cache: transformed weights, which are 16/9 or 4 times as large as the weights, pass once a block of tiles; weights
that are transformed on the way pass once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import slots_of, temporaries_of
from graphopt.backends.base.element_type import HALF
from graphopt.backends.cpu.cost.constants import LAST_LEVEL_BYTES_PER_CYCLE, fork_cycles, stream_cycles
from graphopt.backends.cpu.cost.direct import channels_by_lane, dot_product_of, vector_lanes
from graphopt.backends.cpu.kernels.phases import of_phases
from graphopt.backends.cpu.kernels.tiling import register_tiles, split_balanced, tile_cycles
from graphopt.backends.cpu.kernels.winograd_integers import SUM_BITS
from graphopt.backends.cpu.kernels.winograd_tile import TAPS, WinogradConfig
from graphopt.backends.specs.convolution import Conv2dSpec

_MAX_VECTORS = 4
_MAX_TILES = 64
"""Tiles of one image up to which threads share a block and split the channels."""
_MAX_BLOCK = 56
_SLACK = 1.1
"""What it may cost on open planes that threads share channels: where they take blocks of tiles, a small plane is work for one."""
_TILE_CYCLES = 20.0
_STORE_CYCLES = 2.0
_TILE_CYCLES_BY_LANE = 4.0
_STORE_CYCLES_BY_LANE = 1.0
"""The two of kernels other than 3 x 3 with stride 1. Those have them too, but choices got worse with them (ADR 41)."""
_LOAD_CYCLES = 0.5
"""For a vector of weights that comes from the second-level cache."""
_NO_OVERLAP = 0.25
"""Of the time in which weights or patches arrive while others are multiplied, what comes on top."""
_PASS = 0.3
"""Time for the sums of a register tile to be loaded and stored once more, over that of their being stored first."""
_STALL = 1.15
"""Measured over predicted time of the products."""
_TRANSFORM_CYCLES = {2: (40.0, 35.0), 4: (250.0, 220.0)}
"""Measured for a patch and a vector of channels, in and out, by m."""
_TRANSFORM_CYCLES_BY_LANE = {2: (45.0, 30.0), 4: (135.0, 85.0)}
"""The same in float32 where transforms fit the register file, by llvm-mca for a Neoverse N1. Of float16 they take more."""
_LARGE_PATCH = 6
"""Rows and columns of patches of kernels that aren't 3 x 3."""
_LARGE_CYCLES = {3: 50.0, 2: 35.0}
"""The same for the results of these, by m; patches are transformed by their size."""
_PHASES_CYCLES = 40.0
"""The same on top for a patch whose vectors are gathered."""
_INTEGER_TRANSFORM_CYCLES = {2: (40.0, 40.0), 4: (150.0, 240.0)}
"""The same for integers, whose patches have 16 bits: twice as many channels in a vector."""
_WEIGHT_CYCLES = {2: 30.0, 4: 60.0}
"""Measured for the transform of a weight's vector of output channels, by m."""
_RAW_GROUPS = (1, 2, 4)
"""Panels whose weights are transformed together."""


def default_config(spec: Conv2dSpec, caps: Caps) -> WinogradConfig:
    """The configuration with the least predicted time; of open planes one that suits small ones, too, if it takes little more."""
    static = spec.static_plane is not None and isinstance(spec.batch, int)

    def rank(config: WinogradConfig) -> tuple[float, int]:
        slack = 1.0 if static or config.by_group or caps.cores == 1 else _SLACK
        return slack * predicted_cycles(spec, config, caps), config.block

    return min(configurations(spec, caps), key=rank)


def configurations(spec: Conv2dSpec, caps: Caps) -> Iterator[WinogradConfig]:
    """Both sizes of tiles, the widest register tiles, and how many tiles and panels are worked on together."""
    stride, spec = spec.strides[0], of_phases(spec)
    for config in _configurations(spec, caps, stride):
        yield replace(config, prefetch=not caps.fetches_ahead, taps=spec.kernel[0], stride=stride)


def _configurations(spec: Conv2dSpec, caps: Caps, stride: int) -> Iterator[WinogradConfig]:
    lanes = vector_lanes(spec, caps)
    vectors_needed = -(-spec.out_channels // lanes)
    dot = dot_product_of(spec, caps) if spec.types.of_integers else ""
    by_lane = channels_by_lane(spec, caps, dot)
    tiles_of_registers = _widest(
        register_tiles(caps, min(_MAX_VECTORS, vectors_needed), 32, temporaries_of(dot), by_lane)
    )
    for m in fitting_tiles(spec):
        tiles = _tiles(spec, m)
        for points, vectors in tiles_of_registers:
            panels = -(-spec.out_channels // (vectors * lanes))
            static = spec.static_plane is not None and isinstance(spec.batch, int)
            if tiles <= _MAX_TILES:
                for groups in {min(panels, caps.cores * parts) for parts in (1, 2, 4)} | {panels}:
                    group = -(-panels // groups)
                    config = WinogradConfig(
                        m, lanes, vectors, min(points, tiles), tiles, group, by_group=True, dot=dot, by_lane=by_lane
                    )
                    yield from (config, replace(config, private=True))
                is_usual = spec.kernel == (3, 3) and stride == 1
                if is_usual and not spec.types.of_integers and spec.types.accumulator is not HALF:
                    for group in {min(panels, group) for group in _RAW_GROUPS}:
                        for depth in _depths(spec, 4 * (m + 2) ** 2 * group * vectors * lanes, caps):
                            yield WinogradConfig(
                                m,
                                lanes,
                                vectors,
                                min(points, tiles),
                                tiles,
                                group,
                                by_group=True,
                                depth=depth,
                                by_lane=by_lane,
                            )
            elif not static:  # a block may be all that there is: then channels are work for all threads
                for block in range(points, _MAX_BLOCK + 1, points):
                    for groups in {min(panels, caps.cores * parts) for parts in (1, 2, 4)}:
                        group = -(-panels // groups)
                        yield WinogradConfig(
                            m, lanes, vectors, points, block, group, by_group=True, dot=dot, by_lane=by_lane
                        )
            if tiles > points or not static:
                for block in range(points, _MAX_BLOCK + 1, points):
                    for group in {1, -(-panels // 4), -(-panels // 2), panels}:
                        yield WinogradConfig(m, lanes, vectors, points, block, group, dot=dot, by_lane=by_lane)


def _depths(spec: Conv2dSpec, channel_bytes: int, caps: Caps) -> Iterator[int]:
    """How many input channels' weights may be transformed together: as fit half of the second-level cache."""
    depth = spec.in_block
    while depth < spec.in_channels and 2 * depth * channel_bytes <= caps.l2_bytes // 2:
        yield depth
        depth *= 2
    yield min(depth, spec.in_channels)


def fitting_tiles(spec: Conv2dSpec) -> list[int]:
    """Sizes of tiles with which the problem can be solved: of integers, those that leave enough bits for its sums."""
    if spec.kernel != (3, 3):
        return [_LARGE_PATCH + 1 - spec.kernel[0]]
    return [m for m in (2, 4) if not spec.types.of_integers or spec.sum_bits <= SUM_BITS[m]]


def _widest(tiles: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """For each number of vectors, the most points."""
    best: dict[int, int] = {}
    for points, vectors in tiles:
        best[vectors] = max(best.get(vectors, 0), points)
    return [(points, vectors) for vectors, points in best.items()]


def predicted_cycles(spec: Conv2dSpec, config: WinogradConfig, caps: Caps) -> float:
    """Cycles of the whole convolution on all cores of ``caps``."""
    spec = of_phases(spec)
    if config.depth:
        return _raw_cycles(spec, config, caps)
    tiles = _tiles(spec, config.m)
    blocks = -(-tiles // config.block)
    components = config.side**2
    panels = -(-spec.out_channels // config.panel)
    groups = -(-panels // config.group)
    multiply = components * panels * _panel_cycles(spec, config, caps)
    factor_bytes = 4.0 / config.together
    weights = factor_bytes * components * spec.in_channels * panels * config.panel
    patches = factor_bytes * components * config.block * spec.in_channels
    products = 4.0 * components * config.block * config.group * config.panel
    spilled = 0.0
    if patches + products > 0.6 * caps.l2_bytes:
        spilled = ((1 + groups) * patches + 2 * groups * products) / LAST_LEVEL_BYTES_PER_CYCLE
    into, out = _patch_cycles(spec, config, caps)
    if config.by_group:
        turns = -(-groups // caps.cores)
        share = turns / groups
        busy = _together(multiply * share, stream_cycles(weights * share, caps))
        busy += (out + spilled) * share + fork_cycles(caps)
        if config.private:
            return blocks * (busy + turns * into)
        fetched = 2 * patches * (caps.cores - 1) / caps.cores / LAST_LEVEL_BYTES_PER_CYCLE
        return blocks * (busy + into / caps.cores + fetched + fork_cycles(caps))
    rounds = -(-blocks // caps.cores)
    stream = stream_cycles(weights, caps)
    arriving = _together(multiply, stream) - max(multiply, stream)  # later rounds have them nearby
    return rounds * (max(multiply, stream) + into + out + spilled) + arriving + fork_cycles(caps)


def _raw_cycles(spec: Conv2dSpec, config: WinogradConfig, caps: Caps) -> float:
    """The same where weights are transformed on the way.

    While they are multiplied, the next ones arrive, and patches where these don't stay in the second-level cache.
    """
    components = config.side**2
    panels = -(-spec.out_channels // config.panel)
    groups = -(-panels // config.group)
    patches = 4.0 * components * config.block * spec.in_channels
    products = 4.0 * components * config.block * config.group * config.panel
    scratch = 4.0 * components * config.depth * config.group * config.panel
    rounds = -(-groups // caps.cores)
    compute = components * config.group * _panel_cycles(spec, config, caps)
    compute += _WEIGHT_CYCLES[config.m] * spec.in_channels * config.group * config.oc_vectors
    fetched = stream_cycles(4.0 * TAPS * spec.in_channels * config.group * config.panel * rounds, caps) / rounds
    if patches > 0.6 * caps.l2_bytes:
        fetched += patches / LAST_LEVEL_BYTES_PER_CYCLE
    spilled = 0.0
    if products + scratch > 0.6 * caps.l2_bytes:
        spilled = (2 * -(-spec.in_channels // config.depth) * products + scratch) / LAST_LEVEL_BYTES_PER_CYCLE
    into, out = _patch_cycles(spec, config, caps)
    shared = 2 * patches * (caps.cores - 1) / caps.cores / LAST_LEVEL_BYTES_PER_CYCLE
    busy = rounds * (_together(compute, fetched) + spilled + out / groups)
    return into / caps.cores + shared + busy + 2 * fork_cycles(caps)


def _together(multiply: float, fetched: float) -> float:
    """Cycles of products while what others need arrives."""
    return max(multiply, fetched) + _NO_OVERLAP * min(multiply, fetched)


def _panel_cycles(spec: Conv2dSpec, config: WinogradConfig, caps: Caps) -> float:
    """Cycles of the products of one component of a block of patches with one panel."""
    depth = config.depth or spec.in_channels
    steps = spec.in_channels / config.together
    again = (-(-spec.in_channels // depth) - 1) * _PASS
    # for all tiles but the first; where threads take blocks of tiles, and of integers, weights are always counted as coming from L2
    near = config.by_group and not config.dot and 4.0 * depth / config.together * config.panel <= caps.l1_bytes / 2
    cycles = steps * _LOAD_CYCLES * config.oc_vectors if near else 0.0
    for part in split_balanced(config.block, config.points):
        products = slots_of(config.dot) * tile_cycles(part.tile, config.oc_vectors, caps, config.by_lane)
        if config.taps != 3 or config.stride > 1:  # written out, weights in the shadow of products, stored in pairs
            step, store = products, _TILE_CYCLES_BY_LANE + _STORE_CYCLES_BY_LANE * part.tile * config.oc_vectors
        else:
            step = _STALL * products + (0.0 if near else _LOAD_CYCLES * config.oc_vectors)
            store = _TILE_CYCLES + _STORE_CYCLES * part.tile * config.oc_vectors
        cycles += int(part.count) * (steps * step + (1 + again) * store)
    return cycles


def _patch_cycles(spec: Conv2dSpec, config: WinogradConfig, caps: Caps) -> tuple[float, float]:
    """Cycles of the transforms of a block of patches, of all channels, in and out."""
    fits = config.by_lane > 1 and spec.types.accumulator is not HALF
    floats = _TRANSFORM_CYCLES_BY_LANE if fits else _TRANSFORM_CYCLES
    into, out = (_INTEGER_TRANSFORM_CYCLES if config.dot else floats)[config.side - 2]
    if config.taps != 3:
        out = _LARGE_CYCLES[config.m]
    if config.stride > 1:
        into += _PHASES_CYCLES
    lanes = spec.types.lanes(caps)
    in_lanes, out_lanes = math.gcd(config.together * lanes, spec.in_block), math.gcd(lanes, spec.out_block)
    return (
        into * config.block * spec.in_channels / in_lanes,
        out * config.block * spec.out_channels / out_lanes,
    )


def _tiles(spec: Conv2dSpec, m: int) -> int:
    """Tiles of the whole batch, of a typical one where sizes are symbolic."""
    images, rows, columns = spec.assumed
    return images * -(-rows // m) * -(-columns // m)

"""Predicted times of recurrent layers, and the configuration that they make best.

A step multiplies a state of a few rows with all recurrent weights. Counted are multiply-adds, the loads of weights from the cache
that holds them from one step to the next, activations, and the start of threads where they share a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from graphopt.backends.base.caps import Caps
from graphopt.backends.cpu.cost.constants import CLOCK, L2_BYTES_PER_CYCLE
from graphopt.backends.cpu.kernels.matmul_packed import default_config as product_config
from graphopt.backends.cpu.kernels.matmul_tile import MatmulConfig
from graphopt.backends.cpu.kernels.recurrent import RecurrentConfig
from graphopt.backends.cpu.kernels.recurrent_step import PassConfig
from graphopt.backends.cpu.kernels.tiling import lane_steps, split_balanced
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.recurrent import RecurrentSpec
from graphopt.backends.tensors.tensor import Expr

_TYPICAL_TIME = 64
_TYPICAL_BATCH = 1
"""Extents assumed where they are symbolic."""
_SYMBOLIC_ROWS = 4
"""Rows of a tile where the batch is symbolic."""
_GATE_CYCLES = 20.0
"""Of a vector through one gate."""
_BLOCK_CYCLES = 30.0
"""Of a tile, beside its products and gates."""
_WAKE_CYCLES = 2500.0
"""Of sharing a loop among threads that are awake."""
_TILE_CYCLES = 25.0
"""Of the begin and end of a register tile's sums."""
_LAST_LEVEL_AGAIN = 18.0
"""Bytes a cycle that a core reads from the last level, where it reads the same at every step: 47 GB/s measured on Zen 3."""
_MOST_ROWS_A_VECTOR = 3
"""Rows of a tile of one vector: measured on Zen 3, eight take twice the time of four by two, as a state of many rows leaves
little of the first-level cache to weights."""
_LATENCY_SLACK = 0.25
"""Cycles that sums wait for beside the units' latency: eight of them, as many as that needs, reach some 90% of the peak."""
_LOADS_PER_CYCLE = 1.7
_NO_OVERLAP = 0.25
_JOIN_CYCLES = 15.0
"""Of adding up the parts of a tile's sums."""
_MOST_UNITS = 4
_MOST_CHAINS = 4
_FREE_REGISTERS = 4


def default_config(spec: RecurrentSpec, caps: Caps) -> RecurrentConfig:
    """The configuration of the least predicted time."""
    best = [_config(spec, sharing, tuple(_best(spec, g, sharing, caps) for g in spec.passes), caps)
            for sharing in _sharings(spec, caps)]  # fmt: skip
    return min(best, key=lambda config: seconds(spec, config, caps))


def configurations(spec: RecurrentSpec, caps: Caps) -> Iterator[RecurrentConfig]:
    """All tiles of the first pass, and all ways to share the work among threads."""
    first, *others = spec.passes
    for sharing in _sharings(spec, caps):
        rest = [_best(spec, gates, sharing, caps) for gates in others]
        for tile in _tiles(len(first), _rows(spec, sharing), spec, caps):
            yield _config(spec, sharing, (tile, *rest), caps)


@dataclass(frozen=True)
class _Sharing:
    """The fields of `RecurrentConfig` of these names."""

    shares: int = 1
    parts: int = 0
    parallel: bool = False


def _sharings(spec: RecurrentSpec, caps: Caps) -> Iterator[_Sharing]:
    """Ways to share the work among threads."""
    yield _Sharing()
    if caps.cores < 2:
        return
    if spec.directions > 1:
        yield _Sharing(parallel=True)
    shares = -(-caps.cores // spec.directions)
    if shares > 1 and not (isinstance(spec.batch, int) and spec.batch < shares):
        yield _Sharing(shares, parallel=True)
    yield _Sharing(parts=caps.cores, parallel=True)


def _rows(spec: RecurrentSpec, sharing: _Sharing) -> int:
    """Sequences of the batch that one task has."""
    return -(-spec.batch // sharing.shares) if isinstance(spec.batch, int) else _SYMBOLIC_ROWS


def _best(spec: RecurrentSpec, gates: tuple[int, ...], sharing: _Sharing, caps: Caps) -> PassConfig:
    """The fastest tile of a pass."""
    rows, count = _rows(spec, sharing), len(gates)
    return min(_tiles(count, rows, spec, caps), key=lambda tile: _pass_cycles(spec, count, tile, rows, caps))


def _config(spec: RecurrentSpec, sharing: _Sharing, passes: tuple[PassConfig, ...], caps: Caps) -> RecurrentConfig:
    product = _product(spec, caps)
    return RecurrentConfig(spec.types.lanes(caps), passes, product, sharing.shares, sharing.parts, sharing.parallel)


def seconds(spec: RecurrentSpec, config: RecurrentConfig, caps: Caps) -> float:
    """Predicted time on all cores."""
    time, batch = _extent(spec.time, _TYPICAL_TIME), _extent(spec.batch, _TYPICAL_BATCH)
    product = 2.0 * time * batch * spec.directions * spec.gates * spec.hidden * spec.features
    cores = max(caps.cores, 1)
    total = product / (2 * caps.fma_per_cycle * config.lanes * cores)
    rows = -(-batch // config.shares)
    step = sum(_pass_cycles(spec, len(g), tile, rows, caps) for g, tile in zip(spec.passes, config.passes))
    if config.parts:
        total += time * (len(spec.passes) * _WAKE_CYCLES + step * spec.directions / config.parts)
    else:
        tasks = spec.directions * config.shares
        total += time * step * (-(-tasks // cores) if config.parallel else tasks)
    return total / CLOCK


def _product(spec: RecurrentSpec, caps: Caps) -> MatmulConfig:
    """Tiles of the product with the sequence."""
    m = spec.time * spec.batch
    whole = MatmulSpec(m, spec.directions * spec.gates * spec.hidden, max(spec.features, 1), spec.types)
    return replace(product_config(whole, caps), streams=1)


def _tiles(gates: int, rows: int, spec: RecurrentSpec, caps: Caps) -> Iterator[PassConfig]:
    """Tiles whose sums fit the registers."""
    lanes, registers = spec.types.lanes(caps), caps.vector_registers
    by_lane = lane_steps(caps, spec.types.accumulator)
    for units in range(1, min(_MOST_UNITS, -(-spec.hidden // lanes)) + 1):
        for vectors in range(1, gates * units + 1):
            if gates * units % vectors or (vectors >= units and vectors % units):
                continue
            for points in range(1, rows + 1):
                if vectors < 2 and points > _MOST_ROWS_A_VECTOR:
                    continue
                # weights that several rows need take registers, those of a single row are operands of its multiply-adds
                operands = vectors if by_lane == 1 else points  # those by lane meet one vector of weights at a time
                most = registers - (_FREE_REGISTERS if points == 1 else max(_FREE_REGISTERS, 1 + operands))
                for chains in range(1, min(_MOST_CHAINS, most // (vectors * points)) + 1):
                    yield PassConfig(units, points, vectors, chains, by_lane)


def _pass_cycles(spec: RecurrentSpec, gates: int, tile: PassConfig, rows: int, caps: Caps) -> float:
    """Cycles of one pass for one direction."""
    lanes = spec.types.lanes(caps)
    vectors = tile.vectors
    tiles = gates * tile.units // vectors
    blocks = -(-spec.hidden // (tile.units * lanes))
    column = spec.types.weight.bytes * spec.hidden
    weights = column * spec.gates * spec.hidden
    step_bytes = vectors * lanes * spec.types.weight.bytes
    far = 0.0 if weights <= caps.l1_bytes // 2 else step_bytes / _rate(weights, caps)
    block = column * gates * tile.units * lanes
    near = 0.0 if block <= caps.l1_bytes // 2 else step_bytes / L2_BYTES_PER_CYCLE
    total = 0.0
    for number, segment in enumerate(split_balanced(max(rows, 1), tile.rows)):
        points, count = segment.tile, int(segment.count)
        step = max(
            points * vectors / caps.fma_per_cycle,
            (caps.fma_latency + _LATENCY_SLACK) / tile.chains,
            (points / tile.by_lane + vectors) / _LOADS_PER_CYCLE,
        )
        first = _together(step, far if number == 0 else near)
        finish = _BLOCK_CYCLES + _GATE_CYCLES * (gates + 1) * tile.units * points
        product = spec.hidden * (first + (count - 1) * _together(step, near)) + count * (
            _TILE_CYCLES + (_JOIN_CYCLES if tile.chains > 1 else 0.0)
        )
        total += tiles * product + count * finish
    return blocks * total


def _together(a: float, b: float) -> float:
    """Cycles of arithmetic and of loads that mostly overlap."""
    return max(a, b) + _NO_OVERLAP * min(a, b)


def _rate(weights: int, caps: Caps) -> float:
    """Bytes a cycle at which a core reads weights of so many bytes again at every step."""
    return L2_BYTES_PER_CYCLE if weights <= caps.l2_bytes else _LAST_LEVEL_AGAIN


def _extent(value: Expr, typical: int) -> int:
    return max(value, 1) if isinstance(value, int) else typical

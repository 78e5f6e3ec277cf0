"""Cutting an axis into register tiles, and choosing the tile that suits a register file.

Every split is exact: a remainder gets a tile of its own width, so that vector loops need no predicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx

FMA_LATENCY = 4
"""Cycles before a fused multiply-add's result can be accumulated into again (Skylake to Sapphire Rapids, Zen)."""

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2


@dataclass(frozen=True)
class Segment:
    """``count`` adjacent tiles of ``tile`` elements, the first at ``start``.

    Attributes:
        start: first element; may be an expression when the axis is symbolic.
        tile: elements per tile, always static.
        count: tiles; may be an expression.
        border: the tile touches padding, so its position is static and it is emitted on its own.
    """

    start: tirx.Expr | int
    tile: int
    count: tirx.Expr | int
    border: bool = False


def split_balanced(extent: int, tile: int) -> list[Segment]:
    """Cuts ``extent`` elements into the fewest tiles of at most ``tile``, of two widths that differ by one at most.

    Balanced widths beat full tiles and a short rest, whose few accumulators would leave the FMA units idle.
    """
    tiles = -(-extent // tile)
    narrow, wide_count = divmod(extent, tiles)
    if wide_count == 0:
        return [Segment(0, narrow, tiles)]
    return [Segment(0, narrow + 1, wide_count), Segment(wide_count * (narrow + 1), narrow, tiles - wide_count)]


def split_symbolic(extent: tirx.Expr, tile: int) -> list[Segment]:
    """Cuts a symbolic extent into tiles of ``tile``, then tiles of a quarter of it, then single elements.

    The narrower tiles bound what a remainder costs without one variant of the code for each width.
    """
    segments: list[Segment] = []
    start: tirx.Expr | int = 0
    for width in dict.fromkeys((tile, max(1, tile // 4), 1)):
        count = tirx.floordiv(extent - start, width)
        segments.append(Segment(start, width, count))
        start = start + count * width
    return segments


def isolate_borders(segments: list[Segment], first_inner: int, first_outer: int) -> list[Segment]:
    """Takes tiles that touch padding out of static segments, as segments of their own.

    Args:
        segments: a static split.
        first_inner: first element whose window lies clear of the leading padding.
        first_outer: first element whose window reaches into the trailing padding.
    """
    result: list[Segment] = []
    for segment in segments:
        assert isinstance(segment.start, int)
        assert isinstance(segment.count, int)
        run_start, run = segment.start, 0
        for index in range(segment.count):
            start = segment.start + index * segment.tile
            if start >= first_inner and start + segment.tile <= first_outer:
                run_start = run_start if run else start
                run += 1
                continue
            if run:
                result.append(Segment(run_start, segment.tile, run))
                run = 0
            result.append(Segment(start, segment.tile, 1, border=True))
        if run:
            result.append(Segment(run_start, segment.tile, run))
    return result


def tile_cycles(points: int, vectors: int) -> float:
    """Least cycles of one reduction step on a tile of ``points`` by ``vectors`` accumulators.

    Bound by FMA throughput, by the latency of the chain of each accumulator, and by the loads: a vector of weights for
    each of ``vectors`` and a broadcast for each of ``points``.
    """
    return max(points * vectors / FMA_PER_CYCLE, FMA_LATENCY, (points + vectors) / LOADS_PER_CYCLE)


def register_tiles(registers: int, max_vectors: int, max_points: int) -> Iterator[tuple[int, int]]:
    """Tiles ``(points, vectors)`` that fit: accumulators, one register per weight vector and one for the broadcast."""
    for vectors in range(1, max_vectors + 1):
        limit = (registers - 1 - vectors) // vectors
        for points in range(1, min(limit, max_points) + 1):
            yield points, vectors

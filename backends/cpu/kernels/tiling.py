"""Cutting an axis into register tiles, and choosing the tile that suits a register file.

Every split is exact: a remainder gets a tile of its own width, so that vector loops need no predicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.window import Window, ceil_div

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
        taps: for tiles that touch padding, the half-open range of elements that each kernel element applies to; None
            when all apply to all.
        clipped: single elements that may touch padding at a place unknown until run time.
    """

    start: tirx.Expr | int
    tile: int
    count: tirx.Expr | int
    taps: tuple[tuple[int, int], ...] | None = None
    clipped: bool = False


def split_balanced(extent: int, tile: int) -> list[Segment]:
    """Cuts ``extent`` elements into the fewest tiles of at most ``tile``, of two widths that differ by one at most.

    Balanced widths beat full tiles and a short rest, whose few accumulators would leave the FMA units idle.
    """
    tiles = -(-extent // tile)
    narrow, wide_count = divmod(extent, tiles)
    if wide_count == 0:
        return [Segment(0, narrow, tiles)]
    return [Segment(0, narrow + 1, wide_count), Segment(wide_count * (narrow + 1), narrow, tiles - wide_count)]


def split_symbolic(stop: tirx.Expr, tile: int, start: tirx.Expr | int = 0) -> list[Segment]:
    """Cuts ``[start, stop)`` into tiles of ``tile``, then tiles of a quarter of it, then single elements.

    The narrower tiles bound what a remainder costs without one variant of the code for each width.
    """
    segments: list[Segment] = []
    for width in dict.fromkeys((tile, max(1, tile // 4), 1)):
        count = tirx.floordiv(stop - start, width)
        segments.append(Segment(start, width, count))
        start = start + count * width
    return segments


def split_symbolic_window(out_extent: tirx.Expr, tile: int, window: Window, trail: int) -> list[Segment]:
    """Cuts a symbolic output axis into clipped border elements and whole inner tiles.

    Args:
        out_extent: output elements.
        tile: elements of an inner tile.
        window: the kernel's way along the axis.
        trail: padding after the input.
    """
    if window.lead == 0 and trail == 0:
        return split_symbolic(out_extent, tile)
    reach = (window.kernel - 1) * window.dilation
    first_inner = tirx.min(max(ceil_div(window.lead, window.stride), 0), out_extent)  # a lead below 0 skips input
    first_outer = ceil_div(window.extent + window.lead - reach, window.stride)
    first_outer = tirx.max(tirx.min(first_outer, out_extent), first_inner)
    return [
        Segment(0, 1, first_inner, clipped=True),
        *split_symbolic(first_outer, tile, first_inner),
        Segment(first_outer, 1, out_extent - first_outer, clipped=True),
    ]


def split_by_taps(segments: list[Segment], window: Window) -> list[Segment]:
    """Cuts static segments further where tiles differ in which products with padding they must leave out."""
    result: list[Segment] = []
    for segment in segments:
        assert isinstance(segment.start, int)
        assert isinstance(segment.count, int)
        starts = range(segment.start, segment.start + segment.count * segment.tile, segment.tile)
        cuts = window.cuts(starts)
        for taps, run in groupby(pairwise(cuts), key=lambda cut: window.taps(starts[cut[0]], segment.tile)):
            pieces = list(run)
            whole = all(span == (0, segment.tile) for span in taps)
            count = pieces[-1][1] - pieces[0][0]
            result.append(Segment(starts[pieces[0][0]], segment.tile, count, None if whole else taps))
    return result


def tile_cycles(points: int, vectors: int) -> float:
    """Least cycles of one reduction step on a tile of ``points`` by ``vectors`` accumulators.

    Bound by FMA throughput, by the latency of the chain of each accumulator, and by the loads: a vector of weights for
    each of ``vectors`` and a broadcast for each of ``points``.
    """
    return max(points * vectors / FMA_PER_CYCLE, FMA_LATENCY, (points + vectors) / LOADS_PER_CYCLE)


def register_tiles(
    registers: int, max_vectors: int, max_points: int, temporaries: int = 0
) -> Iterator[tuple[int, int]]:
    """Tiles ``(points, vectors)`` that fit: accumulators, one register per weight vector and one for the broadcast.

    Four registers stay free in any case: with fewer, LLVM's scheduling of the loads makes it spill.

    Args:
        registers: of the processor.
        max_vectors, max_points: bounds of the tiles.
        temporaries: registers for products on their way to an accumulator.
    """
    for vectors in range(1, max_vectors + 1):
        limit = (registers - max(4, 1 + vectors + temporaries)) // vectors
        for points in range(1, min(limit, max_points) + 1):
            yield points, vectors

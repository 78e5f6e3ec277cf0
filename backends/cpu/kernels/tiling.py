"""Cutting an axis into register tiles, and choosing the tile that suits a register file.

Every split is exact: a remainder gets a tile of its own width, so that vector loops need no predicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, TypeAlias

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import DOT_PRODUCTS
from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.window import Window, ceil_div

_MOST_CUTS = 4
"""How many times an axis is cut at most where kernel elements begin or cease to meet the input: each part is code of its own."""

_BY_LANE = frozenset({"float32", "float16"})
"""Types of sums whose multiply-adds take a lane as their factor."""

_TURNS_WRITTEN_OUT = 2
_LOOP_INSTRUCTIONS = 4
_OTHER_SHARE = 0.2
"""What instructions cost beside multiply-adds that keep their units busy all the time: places in the core's queues, and energy."""

_FREE_REGISTERS = 4
"""Registers besides accumulators at least: with fewer, LLVM's scheduling of the loads makes it spill."""
_FREE_OF_THREE_OPERANDS = 6
"""The same where multiply-adds take no operand from memory: every broadcast is in a register for a time."""
_MOST_POINTS, _MOST_POINTS_IN_ORDER = 9, 7
"""Points of a tile whose factors wait in vectors: with more, each meets few columns. For cores that run in order LLVM unrolls loops
and loads ahead."""


@dataclass(frozen=True)
class Segment:
    """``count`` adjacent tiles of ``tile`` elements, the first at ``start``.

    Attributes:
        start: first element; may be an expression when the axis is symbolic.
        tile: elements per tile, always static.
        count: tiles; may be an expression.
        taps: for tiles that touch padding, the half-open range of elements that each kernel element applies to; None
            when all apply to all.
        clipped: whether run time tells which kernel elements apply: the same ones to all elements of a tile.
        ragged: whether run time tells it, and it may be others for each element.
    """

    start: tirx.Expr | int
    tile: int
    count: tirx.Expr | int
    taps: tuple[tuple[int, int], ...] | None = None
    clipped: bool = False
    ragged: bool = False


def split_balanced(extent: int, tile: int) -> list[Segment]:
    """Cuts ``extent`` elements into the fewest tiles of at most ``tile``, of two widths that differ by one at most.

    Balanced widths beat full tiles and a short rest, whose few accumulators would leave the FMA units idle.
    """
    tiles = -(-extent // tile)
    narrow, wide_count = divmod(extent, tiles)
    if wide_count == 0:
        return [Segment(0, narrow, tiles)]
    return [Segment(0, narrow + 1, wide_count), Segment(wide_count * (narrow + 1), narrow, tiles - wide_count)]


Named: TypeAlias = "Callable[[Any], Any]"
"""Gives an expression a name of its own, for what is made of it to be short."""


def split_symbolic(
    stop: tirx.Expr, tile: int, start: tirx.Expr | int = 0, named: Named = lambda value: value
) -> list[Segment]:
    """Cuts ``[start, stop)`` into tiles of ``tile`` elements and of one less, which cover all lengths but some short ones exactly.

    These take ever narrower tiles: few widths, as each is code of its own.
    """
    length = named(stop - start)
    if tile == 1:
        return [Segment(start, 1, length)]
    tiles = named(ceil_div(length, tile))
    missing = named(tiles * tile - length)
    exact = named(_number(missing <= tiles, missing))
    wide = named(exact * (tiles - missing) + (1 - exact) * tirx.floordiv(length, tile))
    narrow = named(exact * missing)
    done = named(start + wide * tile)
    segments = [Segment(start, tile, wide), Segment(done, tile - 1, narrow)]
    done = named(done + narrow * (tile - 1))
    width = tile - 2
    while width > 0:
        count = named(tirx.floordiv(stop - done, width))
        segments.append(Segment(done, width, count))
        done = named(done + count * width)
        width //= 2
    return segments


def split_symbolic_window(
    out_extent: tirx.Expr, tile: int, window: Window, trail: int, named: Named = lambda value: value
) -> list[Segment]:
    """Cuts a symbolic output axis into tiles.

    Tiles at both ends leave out the products with padding by code of their own; on a short axis they overlap, and compute the same
    there. Where the axis is shorter still, single elements look where they are. Where steps are longer than one element, the extent
    decides which element is the last that meets padding, and elements at the end are single ones. Padding wider than a tile,
    as dilated kernels have it, is cut where a kernel element begins or ceases to apply; that of large kernels isn't cut.

    Args:
        out_extent: output elements.
        tile: elements of a tile.
        window: the kernel's way along the axis.
        trail: padding after the input.
        named: applied to all parts of the result and to what they are made of.
    """
    if window.lead == 0 and trail == 0:
        return split_symbolic(out_extent, tile, 0, named)
    reach = (window.kernel - 1) * window.dilation
    skipped = max(ceil_div(window.lead, window.stride), 0)  # a lead below 0 skips input
    out_extent = named(out_extent)
    wide = tile > 1 and max(skipped, ceil_div(trail, window.stride)) > tile
    if wide and len(bounds := _bounds_of_taps(window, trail)) <= _MOST_CUTS:
        return _split_by_bounds([named(tirx.min(bound, out_extent)) for bound in bounds], out_extent, tile, named)
    first_inner = named(tirx.min(skipped, out_extent))
    trailing = ceil_div(window.extent + window.lead - reach, window.stride)  # the first that meets padding at the end
    trailing = named(tirx.min(trailing, out_extent))
    first_outer = named(tirx.max(trailing, first_inner))
    if wide:
        inner = split_symbolic(first_outer, tile, first_inner, named)
        outer = split_symbolic(first_inner, tile, 0, named) + split_symbolic(out_extent, tile, first_outer, named)
        return [*inner, *(replace(segment, ragged=True) for segment in outer)]
    start, stop, single, after = first_inner, first_outer, first_inner, named(out_extent - first_outer)
    ends: list[Segment] = []
    if 0 < skipped <= tile and tile > 1:
        fits = named(_number(trailing >= tile, out_extent))
        taps = [(max(0, -((k * window.dilation - window.lead) // window.stride)), tile) for k in range(window.kernel)]
        ends.append(Segment(0, tile, fits, _spans(taps)))
        start = named(tirx.max(fits * tile, first_inner))
        single = named(first_inner * (1 - fits))
    if window.stride == 1 and 0 < trail <= tile and tile > 1:
        fits = named(_number(tirx.all(out_extent - tile >= first_inner, after <= tile), out_extent))
        taps = [(0, min(max(tile - trail + reach - k * window.dilation, 0), tile)) for k in range(window.kernel)]
        ends.append(Segment(named(out_extent - tile), tile, fits, _spans(taps)))
        stop = named(tirx.max(fits * (out_extent - tile) + (1 - fits) * first_outer, start))
        after = named(after * (1 - fits))
    return [
        Segment(0, 1, single, clipped=True),
        *split_symbolic(stop, tile, start, named),
        Segment(first_outer, 1, after, clipped=True),
        *ends,
    ]


def _bounds_of_taps(window: Window, trail: int) -> list[tirx.Expr | int]:
    """The outputs at which a kernel element begins to meet the input, or ceases to; none is below 0."""
    offsets = [tap * window.dilation for tap in range(window.kernel)]
    begins = [ceil_div(window.lead - offset, window.stride) for offset in offsets if offset < window.lead]
    ends = [
        tirx.max(ceil_div(window.extent + window.lead - offset, window.stride), 0)
        for offset in offsets
        if offsets[-1] - offset < trail
    ]
    return [*begins, *ends]


def _split_by_bounds(bounds: list[tirx.Expr], stop: tirx.Expr, tile: int, named: Named) -> list[Segment]:
    """Tiles of all elements before ``stop`` of which none has a bound inside; the bounds are in any order."""
    for last in range(len(bounds) - 1, 0, -1):
        for i in range(last):
            low, high = bounds[i : i + 2]
            bounds[i], bounds[i + 1] = named(tirx.min(low, high)), named(tirx.max(low, high))
    edges = [0, *bounds, stop]
    return [
        replace(segment, clipped=True)
        for start, end in pairwise(edges)
        for segment in split_symbolic(end, tile, start, named)
    ]


def _number(condition: tirx.Expr, like: tirx.Expr) -> tirx.Expr:
    """1 where a condition holds, 0 where not, in the type of another number."""
    return condition.astype(str(like.ty.dtype))


def _spans(taps: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple((low, high) if low < high else (0, 0) for low, high in taps)


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


def lane_steps(caps: Caps, accumulator: ElementType, dot: str = "") -> int:
    """How many steps' factors of a point one vector holds, for multiply-adds by lane; 1 where these don't exist.

    Args:
        caps: of the target.
        accumulator: in which products are added up.
        dot: name of a dot product that multiplies instead, of groups of elements.
    """
    if dot:
        return caps.lanes(accumulator.bytes) if DOT_PRODUCTS[dot].by_lane else 1
    if not caps.multiplies_by_lane or accumulator.compute not in _BY_LANE:
        return 1
    return caps.lanes(accumulator.bytes)


def tile_cycles(points: int, vectors: int, caps: Caps, by_lane: int = 1) -> float:
    """Least cycles of one reduction step on a tile of ``points`` by ``vectors`` accumulators.

    Bound by multiply-adds, by the latency of the chain of each accumulator, and by the loads: a vector of weights for
    each of ``vectors`` and a broadcast for each of ``points``, or a vector of the next steps' once in ``by_lane`` steps. Where no
    multiply-add loads for itself, also by how many instructions reach the core.
    """
    products, loads = points * vectors, points / by_lane + vectors
    bound = max(products / caps.fma_per_cycle, caps.fma_latency, loads / caps.loads_per_cycle)
    if not caps.multiplies_by_lane:
        return bound
    # one instruction loads two vectors that are neighbours; some count and turn round
    others = points / by_lane + vectors / 2 + _LOOP_INSTRUCTIONS / by_lane
    return max(bound, (products + others) / caps.decode_width) + _OTHER_SHARE * others / caps.decode_width


def register_tiles(
    caps: Caps, max_vectors: int, max_points: int, temporaries: int = 0, by_lane: int = 1, turns: int | None = None
) -> Iterator[tuple[int, int]]:
    """Tiles ``(points, vectors)`` that fit: accumulators, one register per weight vector and one for the broadcast.

    Args:
        caps: of the processor.
        max_vectors, max_points: bounds of the tiles.
        temporaries: registers for products on their way to an accumulator.
        by_lane: steps whose factors of a point come as one vector; these wait in a register for each point.
        turns: of the loop over such steps, if few are known: LLVM writes these out, and loads columns ahead.
    """
    least = _FREE_OF_THREE_OPERANDS if caps.multiplies_by_lane else _FREE_REGISTERS
    for vectors in range(1, max_vectors + 1):
        if by_lane == 1:
            limit = (caps.vector_registers - max(least, 1 + vectors + temporaries)) // vectors
        else:
            ahead = vectors if turns is not None and turns <= _TURNS_WRITTEN_OUT else _FREE_REGISTERS - 2
            limit = (caps.vector_registers - 2 - ahead) // (vectors + 1)
            limit = min(limit, _MOST_POINTS_IN_ORDER if caps.in_order else _MOST_POINTS)
        for points in range(1, min(limit, max_points) + 1):
            yield points, vectors

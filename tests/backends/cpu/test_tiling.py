"""Cutting an axis where tiles differ in their padding: the same pieces as by looking at every tile, but not in that time."""

from __future__ import annotations

from itertools import groupby

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.cpu.kernels.tiling import Segment, split_by_taps, split_symbolic_window
from graphopt.backends.specs.window import Window

WINDOWS = st.builds(
    Window, st.integers(0, 40), st.integers(1, 7), st.integers(1, 4), st.integers(1, 4), st.integers(-9, 30)
)
SEGMENTS = st.builds(Segment, st.integers(0, 20), st.integers(1, 9), st.integers(1, 20))


@settings(derandomize=True, deadline=None, max_examples=500)
@given(SEGMENTS, WINDOWS)
def test_the_pieces_are_those_of_every_tile(segment: Segment, window: Window) -> None:
    assert isinstance(segment.start, int)
    assert isinstance(segment.count, int)
    starts = range(segment.start, segment.start + segment.count * segment.tile, segment.tile)
    wanted = []
    for taps, run in groupby(starts, key=lambda start: window.taps(start, segment.tile)):
        found = list(run)
        whole = all(span == (0, segment.tile) for span in taps)
        wanted.append(Segment(found[0], segment.tile, len(found), None if whole else taps))
    assert split_by_taps([segment], window) == wanted


def test_a_long_axis_is_cut_by_its_ends_alone() -> None:
    """An axis padded by 2^31 elements has 2^27 tiles, nearly all alike; to look at each took minutes."""
    pieces = split_by_taps([Segment(0, 8, 1 << 27)], Window(8, 3, 2, 1, (1 << 31) - 1))
    assert len(pieces) < 10
    assert sum(p.count for p in pieces if isinstance(p.count, int)) == 1 << 27


@settings(derandomize=True, deadline=None, max_examples=1500)
@example(14, 6, 3, 1, 12, 12, 12)
@example(50, 7, 128, 1, 1, 64, 64)
@example(14, 6, 3, 1, 36, 36, 36)  # no output reads but the middle of the kernel
@example(3, 2, 5, 1, 1, 2, 1)  # the second of two columns meets the padding on both sides
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 7), st.integers(1, 3), st.integers(1, 12), st.integers(-2, 15),
    st.integers(-2, 15),
)  # fmt: skip
def test_symbolic_tiles_cover_the_axis_and_know_their_padding(
    extent: int, tile: int, kernel: int, stride: int, dilation: int, lead: int, trail: int
) -> None:
    """Every output is in a tile; tiles that say which products with padding they leave out say what is so; others meet none, or
    are such that the same kernel elements apply to all."""
    reach = (kernel - 1) * dilation
    outputs = (extent + lead + trail - reach - 1) // stride + 1
    assume(outputs >= 1)
    analyzer = tvm.sym.Analyzer()

    def number(value: tirx.Expr | int) -> int:
        return int(analyzer.simplify(value)) if isinstance(value, tirx.Expr) else value

    window = Window(tirx.const(extent, "int64"), kernel, stride, dilation, lead)
    known = Window(extent, kernel, stride, dilation, lead)
    covered: set[int] = set()
    for segment in split_symbolic_window(
        tirx.const(outputs, "int64"), tile, window, trail, lambda value: tirx.const(number(value), "int64")
    ):
        for index in range(number(segment.count)):
            start = number(segment.start) + index * segment.tile
            covered |= set(range(start, start + segment.tile))
            whole, taps = (0, segment.tile), known.taps(start, segment.tile)
            if segment.ragged:
                continue
            if segment.clipped:
                assert all(span in (whole, (0, 0)) for span in taps), segment
            else:
                assert taps == (segment.taps or (whole,) * kernel), segment
    assert covered == set(range(outputs))

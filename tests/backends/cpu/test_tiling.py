"""Cutting an axis where tiles differ in their padding: the same pieces as by looking at every tile, but not in that time."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.backends.cpu.kernels.tiling import Segment, split_by_taps
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

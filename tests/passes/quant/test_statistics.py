"""Streamed statistics: the same bits however the stream is cut, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.errors import UserError
from graphopt.passes.quant.histogram import BINS, Histogram
from graphopt.passes.quant.statistics import ValueStatistics

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=numbers)


def facts(statistics: ValueStatistics) -> tuple[Any, ...]:
    histogram = statistics.histogram
    assert histogram is not None
    return (
        statistics.low, statistics.high, statistics.samples, statistics.mean_low, statistics.mean_high,
        histogram.exponent, histogram.first, histogram.zeros, histogram.counts.tolist(),
    )  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(arrays, st.lists(st.integers(0, 40), max_size=5), st.randoms())
def test_any_partition_gives_the_same(data: Any, cuts: list[int], random: Any) -> None:
    whole, cut = ValueStatistics(True), ValueStatistics(True)
    whole.add("v", data, True)
    parts = np.split(data, sorted(min(c, len(data)) for c in cuts))
    random.shuffle(parts)
    for part in parts:
        cut.add("v", part, True)
    assert facts(whole) == facts(cut)


def test_partitions_of_numbers_of_all_sizes() -> None:
    """Small numbers first, of either sign, and then ever larger ones: every bin is merged many times."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        data = (rng.standard_normal(200) * 10.0 ** rng.uniform(-30, 30, 200)).astype(np.float32)[:, None]
        data = data[np.argsort(np.abs(data[:, 0]))]
        whole = ValueStatistics(True)
        whole.add("v", data, True)
        for parts in (data, np.split(data, [3, 50, 51]), data[::-1]):
            cut = ValueStatistics(True)
            for part in parts:
                cut.add("v", part.reshape(-1, 1), True)
            assert facts(whole) == facts(cut)


@settings(max_examples=50, deadline=None)
@given(arrays)
def test_counts_are_those_of_numpy(data: Any) -> None:
    histogram = Histogram()
    histogram.add(data)
    assert len(histogram.counts) <= BINS
    assert histogram.total == data.size
    inside = data[data != 0].astype(np.float64)
    edges = histogram.edges
    np.testing.assert_array_equal(histogram.counts, np.histogram(inside, edges)[0])
    assert edges[0] <= 0 <= edges[-1]
    if inside.size and histogram.exponent > -149:  # bins of half the width would not be enough
        half = np.ldexp(1.0, histogram.exponent - 1)
        first, last = (int(np.floor(f(*inside, 0.0) / half)) for f in (min, max))
        assert last - first >= BINS


def test_means_of_samples() -> None:
    statistics = ValueStatistics()
    statistics.add("v", np.asarray([[1, 2], [-3, 4], [5, 9]], np.float32), True)
    assert (statistics.mean_low, statistics.mean_high) == (1.0, 5.0)
    statistics.add("v", np.asarray([[1, 2], [3, 4]], np.float32))
    assert statistics.samples == 4
    assert (statistics.low, statistics.high) == (-3.0, 9.0)


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_what_is_not_finite_is_named(bad: float, word: str) -> None:
    data = np.asarray([[1.0, 2.0], [bad, 0.0]], np.float32)
    for batched in (False, True):
        with pytest.raises(UserError, match=f"%layer7/out is {word}"):
            ValueStatistics(True).add("layer7/out", data, batched)


def test_nothing_and_scalars() -> None:
    statistics = ValueStatistics(True)
    statistics.add("v", np.zeros((0, 3), np.float32), True)
    assert statistics.samples == 0
    statistics.add("v", np.asarray(2.5, np.float32), True)
    assert (statistics.low, statistics.high, statistics.samples) == (2.5, 2.5, 1)

"""The range in which a value is stored, chosen from what its statistics say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.errors import UserError, did_you_mean
from graphopt.passes.quant.entropy import entropy_range
from graphopt.passes.quant.histogram import Histogram
from graphopt.passes.quant.parameters import IntegerForm
from graphopt.passes.quant.squared_error import least_error_range
from graphopt.passes.quant.statistics import ValueStatistics

DEFAULT_METHOD = "mse"
"""The method that ranges are chosen by where nobody says otherwise (ADR 24)."""
PERCENTILE = 99.99
"""Part of the numbers that a range by percentile holds, in percent."""


@dataclass(frozen=True)
class Range:
    """Bounds of the numbers that are stored without saturation."""

    low: float
    high: float

    def with_other(self, other: Range) -> Range:
        """The least range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class Method:
    """A way to choose ranges.

    Attributes:
        name: as users write it.
        histogram: whether it needs one.
        choose: from statistics, number of steps and percentile.
    """

    name: str
    histogram: bool
    choose: Callable[[ValueStatistics, int, float], tuple[float, float]]


def method_of(name: str) -> Method:
    """The method of a name: ``minmax``, ``average``, ``percentile``, ``entropy`` or ``mse``.

    Raises:
        UserError: there is no such method.
    """
    if name not in _METHODS:
        raise UserError(
            f"there is no method {name!r} to choose ranges", code="bad-option",
            hint=did_you_mean(name, _METHODS) or f"there are {', '.join(_METHODS)}",
        )  # fmt: skip
    return _METHODS[name]


def range_of(statistics: ValueStatistics, form: IntegerForm, method: Method, percentile: float = PERCENTILE) -> Range:
    """The range for a value; it holds zero. A value that was never seen has none but zero."""
    if not statistics.samples:
        return Range(0.0, 0.0)
    low, high = method.choose(statistics, form.high - form.low + 1, percentile)
    return Range(min(low, 0.0), max(high, 0.0))


def _minmax(statistics: ValueStatistics, levels: int, percentile: float) -> tuple[float, float]:
    return statistics.low, statistics.high


def _average(statistics: ValueStatistics, levels: int, percentile: float) -> tuple[float, float]:
    """The means of the samples' bounds: a sample that is out of the ordinary widens the range a little only."""
    return statistics.mean_low, statistics.mean_high


def _percentile(statistics: ValueStatistics, levels: int, percentile: float) -> tuple[float, float]:
    histogram = _histogram(statistics)
    tail = histogram.total * (1 - percentile / 100) / 2
    counts = histogram.counts.astype(np.float64)
    counts[-histogram.first] += histogram.zeros  # the bin that zero lies in
    up, down = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    edges = histogram.edges
    low = edges[int(np.argmax(up > tail))]  # the first bin that some numbers beyond the tail lie in
    high = edges[len(down) - int(np.argmax(down[::-1] > tail))]
    return max(float(low), statistics.low), min(float(high), statistics.high)


def _entropy(statistics: ValueStatistics, levels: int, percentile: float) -> tuple[float, float]:
    return entropy_range(_histogram(statistics), min(statistics.low, 0.0), max(statistics.high, 0.0), levels)


def _mse(statistics: ValueStatistics, levels: int, percentile: float) -> tuple[float, float]:
    return least_error_range(_histogram(statistics), min(statistics.low, 0.0), max(statistics.high, 0.0), levels)


def _histogram(statistics: ValueStatistics) -> Histogram:
    assert statistics.histogram is not None, "the method says that it needs one"
    return statistics.histogram


_METHODS = {
    method.name: method
    for method in (
        Method("minmax", False, _minmax),
        Method("average", False, _average),
        Method("percentile", True, _percentile),
        Method("entropy", True, _entropy),
        Method("mse", True, _mse),
    )
}
METHODS = tuple(_METHODS)
"""Names of the methods."""

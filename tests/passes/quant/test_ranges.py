"""Ways to choose a range, against what brute force or arithmetic says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import UserError
from graphopt.passes.quant.parameters import form_of, parameters_of, quantized
from graphopt.passes.quant.ranges import METHODS, Range, method_of, range_of
from graphopt.passes.quant.statistics import ValueStatistics

U8 = form_of("u8")


def chosen(data: Any, method: str, percentile: float = 99.99, batched: bool = False) -> Range:
    statistics = ValueStatistics(method_of(method).histogram)
    statistics.add("v", np.asarray(data), batched)
    return range_of(statistics, U8, method_of(method), percentile)


def squared_error(data: Any, found: Range) -> float:
    p = parameters_of(found.low, found.high, U8)
    back = (quantized(data, p).astype(np.float64) - p.zero_point) * float(p.scale)
    return float(((back - data) ** 2).sum())


def normal(*, outlier: float = 0.0, relu: bool = False) -> Any:
    data = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    data = np.maximum(data, 0) if relu else data
    return np.append(data, np.float32(outlier)) if outlier else data


def test_minmax_holds_zero() -> None:
    assert chosen([2.0, 3.0], "minmax") == Range(0.0, 3.0)
    assert chosen([-2.0, -3.0], "minmax") == Range(-3.0, 0.0)


def test_average_of_samples() -> None:
    assert chosen(np.asarray([[1, -2], [3, -4]], np.float32), "average", batched=True) == Range(-3.0, 2.0)


def test_percentile_leaves_tails_out() -> None:
    data = np.linspace(-1, 1, 10001, dtype=np.float32)
    found = chosen(data, "percentile", 98.0)
    assert found.low == pytest.approx(-0.98, abs=2e-3)
    assert found.high == pytest.approx(0.98, abs=2e-3)
    assert chosen(data, "percentile", 100.0) == Range(-1.0, 1.0)
    assert chosen(normal(outlier=1000.0), "percentile", 99.9).high < 10


def test_percentile_counts_zeros() -> None:
    data = np.zeros(10000, np.float32)
    data[:10] = 5.0
    assert chosen(data, "percentile", 99.0).high < 0.01


@pytest.mark.parametrize("outlier", [0.0, 12.0, -40.0, 300.0])
@pytest.mark.parametrize("relu", [False, True])
def test_mse_is_near_the_best(outlier: float, relu: bool) -> None:
    data = normal(outlier=outlier, relu=relu)
    found = squared_error(data, chosen(data, "mse"))
    low, high = float(min(data.min(), 0)), float(max(data.max(), 0))
    parts = np.linspace(0.05, 1, 20)
    best = min(squared_error(data, Range(low * a, high * b)) for a in parts for b in parts)
    assert found <= best * 1.02 + 1e-12
    assert found <= squared_error(data, Range(low, high))


def test_mse_cuts_off_one_side_alone() -> None:
    found = chosen(np.append(np.linspace(-1, 1, 1_000_000), 2.0).astype(np.float32), "mse")
    assert found.low == -1.0
    assert 1.0 <= found.high < 1.2


def test_entropy_clips_outliers_only() -> None:
    plain, wild = chosen(normal(), "entropy"), chosen(normal(outlier=100.0), "entropy")
    assert 2.5 < plain.high < 4.6
    assert wild.high < 20, "one number in 20001 doesn't cost everyone five bits"
    assert chosen(normal(relu=True), "entropy").low == 0.0
    flat = np.linspace(0, 1, 50000, dtype=np.float32)
    assert chosen(flat, "entropy").high > 0.95, "nothing to be clipped in an even distribution"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "data",
    [
        np.zeros(10), np.full(10, 3.0), np.full(10, -3.0), np.asarray([1e-7, 6e-8, 0.0], np.float16), [1e-45, 0.0], [5.0],
        np.asarray([3e38, -3e38]), np.arange(4.0),
    ],
)  # fmt: skip
def test_every_method_finds_a_range(method: str, data: Any) -> None:
    data = np.asarray(data).astype(np.float16 if np.asarray(data).dtype == np.float16 else np.float32)
    found = chosen(data, method)
    assert found.low <= 0 <= found.high
    assert data.min() <= found.low or found.low <= 0
    assert found.low >= min(0.0, float(data.min()))
    assert found.high <= max(0.0, float(data.max()))
    if method in ("minmax", "average"):
        assert found.high == max(0.0, float(data.max()))
    p = parameters_of(found.low, found.high, U8)
    assert 0 < p.scale < np.inf


def test_entropy_finds_bins_in_a_tiny_range() -> None:
    """In half precision, as others did their bins in the data's own type."""
    data = (np.random.default_rng(0).random(5000) * 3e-7).astype(np.float16)
    found = chosen(data, "entropy")
    assert 1e-7 < found.high <= float(data.max())


def test_nothing_seen() -> None:
    assert range_of(ValueStatistics(True), U8, method_of("mse")) == Range(0.0, 0.0)


def test_unknown_method() -> None:
    with pytest.raises(UserError, match="did you mean 'entropy'"):
        method_of("entropi")

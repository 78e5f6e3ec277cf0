"""Timing in alternation, agreement of contenders, the arithmetic of bounds."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from graphopt.backends.targets.grammar import parse_target
from graphopt.driver.bench import measure as bench_measure
from graphopt.driver.bench.agreement import Agreement, agreement, as_named
from graphopt.driver.bench.machine_peak import Bandwidth, MachinePeaks, machine_peaks
from graphopt.driver.bench.measure import Contender, latency, measure
from graphopt.driver.bench.per_layer import LayerTime
from graphopt.errors import UserError

Y = np.array([1.0, 2.0, 4.0], np.float32)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_measure, "SETTLE_S", 0.0)
    monkeypatch.setattr(bench_measure, "WARM_S", 0.0)


def test_measuring_alternates_and_relates() -> None:
    order: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(name, lambda: order.append(name) or {})  # type: ignore[func-returns-value]

    found = measure([contender("a"), contender("b")], repeat=3)
    assert order == ["a", "b"] + ["a", "a", "b", "b"] * 3  # one run to wake the threads, one that counts
    assert [r.name for r in found] == ["a", "b"]
    assert found[0].ratio == 1.0
    assert all(r.runs == 3 for r in found)
    with pytest.raises(UserError, match="at least 1"):
        measure([contender("a")], repeat=0)


def test_ratios_are_times_over_ours() -> None:
    def slow() -> dict[str, np.ndarray]:
        time.sleep(0.01)
        return {}

    found = measure([Contender("quick", dict), Contender("slow", slow, 2.0)], repeat=2)
    assert found[1].ratio == pytest.approx(found[1].median_ms / found[0].median_ms)
    assert found[1].ratio > 1
    assert (found[1].compile_s, found[1].error, found[1].problem) == (2.0, None, None)


def test_what_times_say() -> None:
    found = latency("peer", [4.0, 1.0, 2.0, 3.0, 10.0], 1.5, 7.0, Agreement(1e-7, "why"), running_bytes=5)
    assert (found.median_ms, found.min_ms, found.p90_ms, found.runs) == (3.0, 1.0, 10.0, 5)
    assert (found.ratio, found.compile_s, found.error, found.problem) == (2.0, 7.0, 1e-7, "why")
    assert (found.loading_bytes, found.running_bytes) == (None, 5)


def compared(**outputs: np.ndarray) -> Agreement:
    return agreement(outputs, {"y": Y}, reduction=9, depth=1)


def test_outputs_that_agree() -> None:
    same = compared(y=Y * (1 + 1e-7))
    assert same.problem is None
    assert 0 <= same.error < 1e-6
    assert compared(other_name=Y).problem is None


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ({"y": Y * 2}, "error"), ({"y": Y[:2]}, "shape"), ({"y": Y.astype(np.float64)}, "dtype"),
        ({"y": np.array([1, np.nan, 4], np.float32)}, "NaN"), ({"z": Y, "x": Y}, "missing"), ({}, "missing"),
    ],
)  # fmt: skip
def test_outputs_that_differ(outputs: dict[str, np.ndarray], problem: str) -> None:
    found = compared(**outputs)
    assert problem in (found.problem or "")
    assert found.error > 1e-3


def test_integers_may_be_narrower_but_not_others() -> None:
    want = {"i": np.array([1, 2]), "f": Y}
    named = as_named({"i": np.array([1, 2], np.int32), "f": Y.astype(np.float16)}, want)
    assert named["i"].dtype == np.int64
    assert named["f"].dtype == np.float16


MEMORY = Bandwidth("memory", 20.0, 10.0, 16.0, 18.0)
PEAKS = MachinePeaks(2, 50.0, 100.0, (MEMORY, Bandwidth("L2", 200.0, 100.0, 160.0, 180.0)))


def test_bandwidth_of_a_mix() -> None:
    shares = (0.0, 1 / 3, 0.5, 1.0)
    assert [MEMORY.at(s) for s in shares] == pytest.approx([20.0, 18.0, 16.0, 10.0])
    assert MEMORY.at(0.75) == pytest.approx(1 / ((1 / 16 + 1 / 10) / 2))
    rates = [MEMORY.at(s / 100) for s in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert PEAKS.memory is MEMORY


def layer(flops: int | None, moved: int | None, written: int | None = 0) -> LayerTime:
    """A kernel of one millisecond."""
    return LayerTime("f", "node", flops=flops, bytes=moved, written=written, ms=1.0)


def test_the_nearest_bound() -> None:
    million = 10**6
    assert layer(80 * million, 4 * million).limit(PEAKS) == ("compute", pytest.approx(0.8))
    assert layer(10 * million, 4 * million).limit(PEAKS) == ("memory", pytest.approx(0.2))
    assert layer(10 * million, 8 * million, 4 * million).limit(PEAKS) == ("memory", pytest.approx(0.5))
    assert layer(None, 100 * million).limit(PEAKS) == (
        "L2",
        pytest.approx(0.5),
    )  # more than memory can give: it was in a cache
    assert layer(0, 400 * million).limit(PEAKS) == ("L2", pytest.approx(2.0))
    assert layer(None, None).limit(PEAKS) is None
    assert layer(150 * million, None).limit(PEAKS) == ("compute", pytest.approx(1.5))  # Winograd
    assert layer(0, 10).gflops is None
    assert layer(20 * million, 10 * million).intensity == 2.0


def test_peaks_are_of_processors() -> None:
    with pytest.raises(UserError, match="CPUs only"):
        machine_peaks(parse_target("cuda:sm_80"))


@pytest.mark.slow
def test_peaks_of_this_machine() -> None:
    peaks = machine_peaks(parse_target("native", 1))
    assert peaks is machine_peaks(parse_target("native", 1))
    rates = [peaks.core_gflops, peaks.gflops, *(r for b in peaks.levels for r in (b.read, b.write, b.copy, b.triad))]
    assert all(rate > 0 and math.isfinite(rate) for rate in rates)
    assert peaks.levels[0].level == "memory"
    assert peaks.levels[-1].read > peaks.memory.read

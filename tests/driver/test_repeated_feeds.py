"""Calibration data that is gone through several times is in memory one feed at a time."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.calibration import load_calibration
from graphopt.driver.repeated_feeds import kept_on_disk
from graphopt.errors import UserError
from graphopt.ir.dims import symbol
from graphopt.ir.dtypes import DType
from graphopt.runtime.signature import Signature, TensorSpec
from tests.support.onnx_graphs import graph_of, rand

WANTED = Signature((TensorSpec("x", DType.f32, (symbol("N"), 2)), TensorSpec("s", DType.f32, ())), ())


def batches(count: int = 5) -> Iterator[dict[str, Any]]:
    for i in range(count):
        yield {"x": np.full((3, 2), i, np.float32), "s": np.float32(i)}


def firsts(feeds: Any) -> list[float]:
    return [float(feed["s"]) for feed in feeds]


@pytest.mark.parametrize("source", [batches, list(batches()), batches()])
def test_a_sequence_that_can_be_gone_through_again(source: Any) -> None:
    feeds = load_calibration(source, WANTED)
    assert len(feeds) == 5
    for _ in range(2):
        assert firsts(feeds) == [0, 1, 2, 3, 4]
    assert (firsts(feeds[2:]), firsts(feeds[:2]), firsts(feeds[-2:])) == ([2, 3, 4], [0, 1], [3, 4])
    assert firsts(feeds[1:4][1:]) == [2, 3]
    assert (float(feeds[-1]["s"]), float(feeds[0]["s"]), float(feeds[1:][1]["s"])) == (4, 0, 2)
    assert feeds[1]["x"].dtype == np.float32
    assert not feeds[5:]
    with pytest.raises(IndexError):
        feeds[5]
    with pytest.raises(IndexError):
        feeds[::2]
    assert firsts(load_calibration(source if not isinstance(source, Iterator) else batches(), WANTED, limit=2)) == [
        0,
        1,
    ]


def test_what_goes_by_once_is_on_disk_as_long_as_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive: list[weakref.ref[Any]] = []

    def watched() -> Iterator[dict[str, Any]]:
        for feed in batches(20):
            assert sum(ref() is not None for ref in alive) <= 1, "feeds are kept"
            alive.append(weakref.ref(feed["x"]))
            yield feed

    feeds = kept_on_disk(watched())
    part = feeds[3:]
    assert len(os.listdir(tmp_path)) == 1
    del feeds
    gc.collect()
    assert firsts(part)[0] == 3, "the part keeps the folder"
    del part
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_data_that_ends_early_the_second_time_is_refused() -> None:
    left = batches()
    feeds = load_calibration(lambda: left, WANTED)
    assert len(feeds) == 5
    with pytest.raises(UserError, match="gave 5 feeds at first and 0 when"):
        list(feeds)


def test_pruning_and_zeros_hold_one_feed() -> None:
    """The same as with a list of all samples, from an iterator whose feeds are gone once the next is asked for."""
    body = "a = Gemm(x, u, b)\nr = Relu(a)\nc = Gemm(r, v)\nt = Relu(c)\ny = Gemm(t, w)"
    graph = graph_of({"x": "float[N,8]"}, body, u=rand(8, 16), b=rand(16), v=rand(16, 16, seed=1), w=rand(16, 3))
    samples = [{"x": rand(8, 8, seed=i)} for i in range(12)]
    alive: list[weakref.ref[Any]] = []

    def watched() -> Iterator[dict[str, Any]]:
        for sample in samples:
            assert sum(ref() is not None for ref in alive) <= 1, "feeds are kept"
            array = sample["x"].copy()
            alive.append(weakref.ref(array))
            yield {"x": array}
            del array

    results = []
    for source in (samples, watched()):
        pruned, report = graphopt.prune(
            graph, ratio=0.5, criterion="activation", calibration=source, multiple=1, predict=False, threads=1
        )
        results.append((graphopt.export_onnx(pruned), report.data))
    assert results[0] == results[1]
    assert results[0][1] == "the last 3 of 12 feeds of calibration data"
    alive.clear()
    sparse = [
        graphopt.sparsify(graph, ratio=0.5, method="wanda", calibration=s, compiled=False)[0]
        for s in (samples, watched())
    ]
    assert graphopt.export_onnx(sparse[0]) == graphopt.export_onnx(sparse[1])

"""Equalisation and bias correction help a model that needs them; ONNX Runtime is the judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.driver.quantize.range_table import RangeTable
from graphopt.ir.graph import Graph
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db

DATA, OTHER = {"x": rand(48, 3, 12, 12)}, {"x": rand(40, 3, 12, 12, seed=7)}
CHANNELS = 16


def depthwise() -> Graph:
    """A separable network whose channels are of very different sizes, as batch normalisations leave them."""
    rng = np.random.default_rng(0)
    f, g = (np.exp2(rng.uniform(-4, 4, CHANNELS)).astype(np.float32) for _ in range(2))
    body = """
        a = Conv<pads=[1,1,1,1]>(x, u, e)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1], group=16>(r, d, h)
        s = Relu(b)
        c = Conv(s, w)
        t = Relu(c)
        m = GlobalAveragePool(t)
        l = Flatten(m)
        y = Gemm(l, v, k)"""
    graph = graph_of(
        {"x": "float[N,3,12,12]"}, body, u=rand(CHANNELS, 3, 3, 3) * f[:, None, None, None], e=rand(CHANNELS) * f,
        d=rand(CHANNELS, 1, 3, 3) * (g / f)[:, None, None, None], h=rand(CHANNELS) * g / 2,
        w=rand(24, CHANNELS, 1, 1) / g[None, :, None, None] / 3, v=rand(24, 10), k=rand(10),
    )  # fmt: skip
    for node in graph.nodes:
        node.name = node.out.name
    return graph


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, ...], tuple[float, Any]]:
    """By the options given: signal to noise on other data, and the report."""
    found = {}
    for options in ((), ("equalize",), ("equalize", "correct_bias")):
        graph, report = graphopt.quantize(depthwise(), DATA, compare=False, threads=1, **dict.fromkeys(options, True))
        got, want = (run_ort(export_onnx(g), OTHER)[0] for g in (graph, depthwise()))
        found[options] = sqnr_db(got, want), report
    return found


def test_equalisation_helps_channels_of_different_sizes(results: Any) -> None:
    assert results[()][0] < 22, "the model needs it"
    assert results[("equalize",)][0] > results[()][0] + 15
    assert results[("equalize",)][1].notes == ("2 pairs of layers were equalised: a and b, b and c",)
    assert "r_equalized" in results[("equalize",)][1].table.ranges


def test_bias_correction_helps_what_is_averaged(results: Any) -> None:
    assert results[("equalize", "correct_bias")][0] > results[("equalize",)][0] + 2
    assert "the biases of 4 layers were corrected" in results[("equalize", "correct_bias")][1].notes


def test_results_are_compared_with_float() -> None:
    few = {"x": DATA["x"][:8]}
    _, report = graphopt.quantize(depthwise(), few, equalize=True, correct_bias=True, threads=1)
    assert report.outputs[0].sqnr_db > 35
    assert all(row.sqnr_db > 20 for row in report.layers)


@pytest.mark.parametrize(
    ("body", "corrected"),
    [
        ("y = Gemm(x, w, b)", True),
        ("y = Gemm<transB=1>(x, t)", True),
        ("p = MatMul(x, w)\ny = Add(b, p)", True),
        ("y = Gemm(x, w, r)", True),
        ("p = MatMul(x, w)\ny = Add(p, r)", False),
        ("y = MatMul(x, w)", False),
    ],
)  # fmt: skip
def test_the_mean_error_is_what_is_taken_from_the_bias(body: str, corrected: bool) -> None:
    """Numbers that are never negative, weights that are rounded all one way, and clipped ranges: every mean is shifted."""
    rng = np.random.default_rng(0)
    x = rng.random((200, 16)).astype(np.float32)
    w = (np.floor(rng.uniform(-100, 100, (16, 6))) + 0.4).astype(np.float32)
    w[0] = 127
    graph = graph_of({"x": "float[N,16]"}, body, w=w, t=w.T.copy(), b=rand(6), r=rand(1, 1))
    table = RangeTable({"x": graphopt.quantize(graph, {"x": x * 0.9}, compare=False)[1].table.ranges["x"]})
    errors = []
    for options in ({}, {"correct_bias": True}):
        result, report = graphopt.quantize(graph, {"x": x}, table=table, compare=False, threads=1, level=0, **options)
        got, want = (run_ort(export_onnx(g), {"x": x})[0] for g in (result, graph))
        errors.append(np.abs((got.astype(np.float64) - want).mean(axis=0)))
    assert errors[0].min() > 0.5, "the model needs it"
    if corrected:
        assert errors[1].max() < 0.02
        assert "the biases of 1 layers were corrected" in report.notes
    else:
        np.testing.assert_array_equal(errors[1], errors[0])
        assert report.notes == ()


def test_data_that_goes_by_once_is_corrected_on_its_first_feeds() -> None:
    graph = graph_of({"x": "float[N,8]"}, "y = Gemm(x, w, b)", w=rand(8, 8), b=rand(8))
    parts = [{"x": rand(4, 8, seed=i)} for i in range(12)]
    _, report = graphopt.quantize(graph, iter(parts), correct_bias=True, compare=False, threads=1)
    assert "on the first feeds, since the data goes by once" in report.notes[0]
    assert report.data is None
    cut, _ = graphopt.quantize(graph, parts, correct_bias=True, compare=False, threads=1)
    whole, report = graphopt.quantize(
        graph, {"x": np.concatenate([p["x"] for p in parts])}, correct_bias=True, compare=False, threads=1
    )
    assert report.notes == ("the biases of 1 layers were corrected",)
    got, want = (run_ort(export_onnx(g), parts[0])[0] for g in (cut, whole))
    np.testing.assert_allclose(got, want, atol=1e-4)
    with pytest.raises(graphopt.UserError, match="without calibration data"):
        graphopt.quantize(graph, table=RangeTable(report.table.ranges), correct_bias=True)

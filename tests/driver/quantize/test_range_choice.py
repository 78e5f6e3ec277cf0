"""Ranges where nobody says how they are chosen, and those of values in 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.ir.graph import Graph
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db

OUTLIER = 10.0


def net() -> Graph:
    graph = graph_of(
        {"x": "float[2048,32]"}, "h = MatMul(x, u)\ny = MatMul(h, w)", u=rand(32, 32, seed=1), w=rand(32, 8)
    )
    for node in graph.nodes:
        node.name = node.out.name
    return graph


def samples() -> list[dict[str, Any]]:
    """Numbers near zero but for one of half a million, which all others pay for if the range holds it."""
    found = [{"x": np.clip(rand(2048, 32, seed=seed), -3, 3)} for seed in range(8)]
    found[2]["x"][5, 7] = OUTLIER
    return found


@pytest.fixture(scope="module")
def ranges() -> dict[str, Any]:
    """By the options that they were chosen with, the report's row of the input."""
    options: dict[str, Any] = {
        "default": {}, "minmax": {"method": "minmax"}, "wide": {"overrides": [{"node": "h", "type": "u16"}]},
    }  # fmt: skip
    return {
        name: graphopt.quantize(net(), samples(), compare=False, threads=1, **given) for name, given in options.items()
    }


def row(found: tuple[Graph, Any]) -> Any:
    return next(r for r in found[1].values if r.name == "x")


def test_outliers_are_clipped_by_default(ranges: dict[str, Any]) -> None:
    assert ranges["default"][1].method == "mse"
    assert row(ranges["minmax"]).high == OUTLIER
    assert row(ranges["default"]).high < 0.7 * OUTLIER
    feeds = {"x": np.clip(rand(2048, 32, seed=9), -3, 3)}
    (want,) = run_ort(export_onnx(net()), feeds)
    by = {n: sqnr_db(run_ort(export_onnx(ranges[n][0]), feeds)[0], want) for n in ("default", "minmax")}
    assert by["default"] > by["minmax"] + 2


def test_a_value_in_16_bits_has_the_range_for_16_bits(ranges: dict[str, Any]) -> None:
    assert row(ranges["wide"]).high == OUTLIER, "steps are fine enough for all of it"


def test_layers_that_go_back_to_16_bits_have_the_range_for_16_bits(ranges: dict[str, Any]) -> None:
    _, report = graphopt.quantize(net(), samples(), min_sqnr=36, fall_back="16", evaluation=samples()[2:3], threads=1)
    stored = {layer.node: layer.stored[:3] for layer in report.layers}
    assert stored["h"] == "u16"
    assert row((net(), report)).high == OUTLIER
    assert report.goal.in_float == 0
    assert stored["y"] == "u8 "
    bounds = [next(r for r in rows if r.name == "h").high for rows in (report.values, ranges["default"][1].values)]
    assert bounds[0] == bounds[1], "8 bits keep theirs"

"""Overrides: files and lists, what they change, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from graphopt.passes.quant.ranges import Range
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db

RANGES = graphopt.RangeTable({"x": Range(-3.0, 4.0), "r": Range(0.0, 6.0), "m": Range(0.0, 2.0), "c": Range(-9.0, 9.0)})


def net() -> Graph:
    body = "a = Gemm(x, u, e)\nr = Relu(a)\nm = Mul(r, r)\nc = MatMul(r, v)\ny = MatMul(c, w)"
    graph = graph_of({"x": "float[3,8]"}, body, "y m", u=rand(8, 8), e=rand(8), v=rand(8, 8), w=rand(8, 4))
    for node in graph.nodes:
        node.name = f"n/{node.out.name}"
    return graph


def given(*entries: dict[str, Any], **options: Any) -> tuple[Graph, Any]:
    return graphopt.quantize(net(), table=RANGES, level=0, overrides=entries, **options)


def values(report: Any) -> dict[str, Any]:
    return {row.name: row for row in report.values}


def test_types_of_values_and_of_what_nodes_read() -> None:
    graph, report = given(
        {"value": "x", "type": "s8"}, {"node": "n/c", "type": "u16"}, {"node": "n/c", "per_channel": False}
    )
    assert values(report)["x"].zero_point == 0
    stored = {row.node: row.stored for row in report.layers}
    assert stored["n/a"] == "i8 x i8 weights (8 scales)"
    assert stored["n/c"] == "u16 x i8 weights (1 scale)"
    assert stored["n/y"] == "u8 x i8 weights (4 scales)"
    feeds = {"x": rand(3, 8)}
    got, want = (run_ort(export_onnx(g), feeds)[0] for g in (graph, net()))
    assert sqnr_db(got, want) > 28
    _, report = given({"node": "MatMul", "type": "s8", "symmetric": False}, {"value": "[rc]", "type": "s16"})
    assert {row.node: row.stored[:3] for row in report.layers if row.op == "MatMul"} == {"n/c": "i16", "n/y": "i16"}


def test_values_that_share_a_scale_have_the_type_of_the_most_bits() -> None:
    body = (
        "a = MatMul(x, u)\nr = Relu(a)\nt = Transpose(r)\nb = MatMul(r, v)\nc = MatMul(t, v)\ny = Concat<axis=0>(b, c)"
    )
    graph = graph_of({"x": "float[4,8]"}, body, u=rand(8, 4), v=rand(4, 4))
    table = graphopt.RangeTable({"x": Range(-3.0, 4.0), "r": Range(0.0, 6.0), "t": Range(0.0, 6.0)})
    for entries in ([("r", "u8"), ("t", "u16")], [("t", "u8"), ("r", "u16")]):
        overrides = [{"value": name, "type": form} for name, form in entries]
        _, report = graphopt.quantize(graph, table=table, level=0, overrides=overrides)
        assert {row.op: row.stored[:3] for row in report.layers if row.op == "Transpose"} == {"Transpose": "u16"}
        assert [row.stored[:3] for row in report.layers if row.op == "MatMul"] == ["u8 ", "u16", "u16"]


def test_nodes_are_excluded_and_let_in_again() -> None:
    _, report = given({"node": "n/*", "exclude": True}, {"node": "n/c", "exclude": False})
    assert {row.node for row in report.quantized} == {"n/c"}
    assert next(row.reason for row in report.layers if row.node == "n/a") == "'n/*' is excluded by an override"


def test_ranges_need_no_data() -> None:
    table = graphopt.RangeTable({n: r for n, r in RANGES.ranges.items() if n in ("r", "c")})
    _, report = graphopt.quantize(
        net(), table=table, level=0, overrides=[{"value": "x", "range": [-1, 2]}, {"value": "c", "range": [-5, 5.5]}]
    )
    assert (values(report)["x"].low, values(report)["x"].high) == (-1, 2)
    assert (values(report)["c"].low, values(report)["c"].high) == (-5, 5.5), "the file goes before the table"
    assert report.table.ranges["c"] == Range(-5, 5.5)


def test_methods_of_single_values() -> None:
    x = np.clip(rand(400, 8, seed=3), -3, 3)
    x[0, 0] = 50
    feeds = [{"x": part} for part in x[:399].reshape(133, 3, 8)]
    ranges = []
    for overrides in (
        [],
        [{"value": "x", "percentile": 98}],
        [{"node": "n/a", "method": "entropy"}],
        [{"node": "n/c", "method": "percentile", "percentile": 99}],
    ):
        _, report = graphopt.quantize(net(), feeds, level=0, overrides=overrides, compare=False, threads=1)
        ranges.append({name: row.high for name, row in values(report).items()})
    assert ranges[0]["x"] == 50
    assert ranges[1]["x"] < 4
    assert ranges[2]["x"] < 50
    assert ranges[3]["x"] == 50
    assert ranges[3]["r"] < ranges[0]["r"]
    assert ranges[1]["r"] == ranges[0]["r"]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "overrides.json"
    entries = [{"node": "n/c", "type": "u16"}, {"value": "x", "range": [-1.0, 2.0]}]
    path.write_text(json.dumps({"overrides": entries}))
    want = export_onnx(given(*entries)[0])
    assert export_onnx(graphopt.quantize(net(), table=RANGES, level=0, overrides=path)[0]) == want
    pytest.importorskip("tomllib")
    toml = tmp_path / "overrides.toml"
    toml.write_text('[[overrides]]\nnode = "n/c"\ntype = "u16"\n[[overrides]]\nvalue = "x"\nrange = [-1.0, 2.0]\n')
    assert export_onnx(graphopt.quantize(net(), table=RANGES, level=0, overrides=str(toml))[0]) == want


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"node": "n/d", "type": "u16"}, "did you mean 'n/"),
        ({"value": "a", "type": "u16"}, "no value 'a' in integers"),
        ({"node": "n/c", "typ": "u16"}, "did you mean 'type'"),
        ({"node": "n/c", "type": "u4"}, "no integer form 'u4'"),
        ({"node": "n/c", "method": "kl"}, "no method 'kl'"),
        ({"node": "n/c", "percentile": 12}, "12 percent"),
        ({"node": "n/c", "range": [0, 1]}, "range is of values"),
        ({"value": "x", "exclude": True}, "exclude is of nodes"),
        ({"value": "x", "range": [1, 0]}, "range is [1, 0]"),
        ({"value": "x", "range": [0, float("inf")]}, "range is"),
        ({"node": "n/c", "exclude": 1}, "exclude is 1"),
        ({"node": "n/c", "symmetric": True}, "symmetric goes with a type"),
        ({"node": "n/c", "value": "x"}, "either nodes or values"),
        ({"type": "u16"}, "either nodes or values"),
        ("n/c", "is a str"),
    ],
)
def test_what_is_refused(entry: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        given(entry)
    assert words in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("name", "text"),
    [("o.json", "[]"), ("o.json", "{"), ("o.json", '{"override": []}'), ("o.toml", "a ="), ("none.json", None)],
)
def test_files_that_hold_none(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="overrides"):
        graphopt.quantize(net(), table=RANGES, level=0, overrides=tmp_path / name)

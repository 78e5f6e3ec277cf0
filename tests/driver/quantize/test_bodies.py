"""What is computed in branches and loops: ranges over all iterations, integers in there, and what stays in float with why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.ir.graph import Graph
from graphopt.passes.quant.ranges import Range
from tests.support.onnx_graphs import rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db

Feeds = Mapping[str, Any]
HEAD = '<ir_version: 9, opset_import: ["" : 18]>'
WEIGHTS = {"w0": rand(8, 8, seed=1) / 3, "w1": rand(8, 8, seed=2) / 3, "w2": rand(8, 4, seed=3)}

BRANCHES = """
    g (float[2,8] x, bool p) => (float[2,4] y) {
        a = MatMul(x, w0)
        y = If(p) <
            then_branch = t () => (float[2,4] u) { b = MatMul(a, w1) r = Relu(b) u = MatMul(r, w2) },
            else_branch = e () => (float[2,4] v) { c = Tanh(a) v = MatMul(c, w2) }
        >
    }"""
LOOP = """
    g (float[2,8] x) => (float[2,8] last, float[K,2,4] all) <int64 trips = {3}, bool yes = {1}> {
        last, all = Loop(trips, yes, x) <
            body = b (int64 i, bool go, float[2,8] v) => (bool go2, float[2,8] w, float[2,4] out) {
                go2 = Identity(go)
                c = MatMul(v, w1)
                w = Tanh(c)
                out = MatMul(w, w2)
            }
        >
    }"""
SCAN = """
    g (float[2,8] x, float[3,2,8] xs) => (float[2,8] last, float[2,3,4] all) {
        last, all = Scan <num_scan_inputs = 1, scan_output_axes = [1], body = b (float[2,8] s, float[2,8] e)
            => (float[2,8] s2, float[2,4] out) {
                c = MatMul(e, w1)
                d = Add(c, s)
                s2 = Tanh(d)
                out = MatMul(s2, w2)
            }
        > (x, xs)
    }"""
IN_A_LOOP = """
    g (float[2,8] x, bool p) => (float[2,8] last) <int64 trips = {3}, bool yes = {1}> {
        last = Loop(trips, yes, x) <
            body = b (int64 i, bool go, float[2,8] v) => (bool go2, float[2,8] w) {
                go2 = Identity(go)
                w = If(p) <
                    then_branch = t () => (float[2,8] u) { d = Tanh(v) u = MatMul(d, w1) },
                    else_branch = e () => (float[2,8] n) { n = Tanh(v) }
                >
            }
        >
    }"""


def model(text: str) -> onnx.ModelProto:
    found = parser.parse_model(HEAD + text)
    found.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in WEIGHTS.items())
    return found


def feeds_of(text: str, count: int = 4, **more: Any) -> list[Feeds]:
    extra = {"xs": (3, 2, 8)} if "xs" in text else {}
    return [
        {"x": rand(2, 8, seed=s), **{n: rand(*shape, seed=s) for n, shape in extra.items()}, **more}
        for s in range(10, 10 + count)
    ]


def inside(graph: Graph) -> list[str]:
    """Operators of branches and loops."""
    return [node.op for node in graph.walk() if node.graph is not graph]


def nearness(quantized: Graph, text: str, feeds: Feeds) -> float:
    """The worst SQNR of the outputs, in ONNX Runtime."""
    pairs = zip(run_ort(export_onnx(quantized), feeds), run_ort(model(text), feeds), strict=True)
    return min(sqnr_db(got, want) for got, want in pairs)


def test_both_branches() -> None:
    feeds = [{**feed, "p": np.asarray(i % 2 == 0)} for i, feed in enumerate(feeds_of(BRANCHES, 6))]
    graph, report = graphopt.quantize(model(BRANCHES), feeds, compare=False, threads=1, method="minmax")
    assert inside(graph).count("MatMul") == 3
    assert inside(graph).count("QuantizeLinear") == 2, "of r and c; a is stored where it is computed"
    assert not report.notes
    rows = {row.name: row for row in report.values}
    a = [feed["x"] @ WEIGHTS["w0"] for feed in feeds]
    assert rows["r"].high == pytest.approx(max(np.maximum(v @ WEIGHTS["w1"], 0).max() for v in a[::2]), rel=1e-5)
    assert rows["c"].high == pytest.approx(max(np.tanh(v).max() for v in a[1::2]), rel=1e-5), "seen in its branch only"
    assert len([c for c in graph.constants() if c.name.startswith("w2_quantized")]) == 1, "one copy for both branches"
    compiled = graphopt.compile(graph, "native", threads=1)
    for taken in (True, False):
        feed = {**feeds[0], "p": np.asarray(taken)}
        assert nearness(graph, BRANCHES, feed) > 28
        assert sqnr_db(compiled.run(feed)["y"], run_ort(export_onnx(graph), feed)[0]) > 45


def test_a_branch_that_no_data_goes_through_stays_in_float(tmp_path: Any) -> None:
    feeds = feeds_of(BRANCHES, p=np.asarray(True))
    graph, report = graphopt.quantize(model(BRANCHES), feeds, compare=False, threads=1)
    (row,) = (row for row in report.layers if row.why and row.op == "MatMul")
    assert row.reason == "no calibration data goes through the branch or loop that it is in"
    assert any("products of branches and loops stay in float" in n and row.node in n for n in report.notes)
    for taken in (True, False):
        assert nearness(graph, BRANCHES, {**feeds[0], "p": np.asarray(taken)}) > 28
    report.table.save(tmp_path / "ranges.json")
    again, _ = graphopt.quantize(model(BRANCHES), table=tmp_path / "ranges.json", compare=False)
    assert export_onnx(again) == export_onnx(graph)


def test_a_loop_has_the_ranges_of_all_iterations() -> None:
    feeds = feeds_of(LOOP)
    graph, report = graphopt.quantize(model(LOOP), feeds, compare=False, threads=1, method="minmax")
    assert inside(graph).count("QuantizeLinear") == 3, "of v, w, and what Tanh reads"
    rows, states = {row.name: row for row in report.values}, [feed["x"] for feed in feeds]
    seen = [states]
    for _ in range(3):
        seen.append([np.tanh(v @ WEIGHTS["w1"]) for v in seen[-1]])
    assert rows["v"].high == pytest.approx(np.max(seen[:3]), rel=1e-5)
    assert rows["v"].low == pytest.approx(np.min(seen[:3]), rel=1e-5)
    assert rows["w"].high == pytest.approx(np.max(seen[1:]), rel=1e-5)
    assert nearness(graph, LOOP, feeds_of(LOOP, 5)[4]) > 24


def test_a_scan() -> None:
    feeds = feeds_of(SCAN)
    graph, report = graphopt.quantize(model(SCAN), feeds, compare=False, threads=1, method="minmax")
    assert inside(graph).count("MatMul") + inside(graph).count("Gemm") == 2
    assert inside(graph).count("QuantizeLinear") == 3, "of e, s2, and what Tanh reads"
    rows = {row.name: row for row in report.values}
    assert rows["e"].high == pytest.approx(max(feed["xs"].max() for feed in feeds), rel=1e-5)
    assert nearness(graph, SCAN, feeds_of(SCAN, 5)[4]) > 26
    feed = feeds[1]
    got, want = graphopt.compile(graph, "native", threads=1).run(feed), run_ort(export_onnx(graph), feed)
    assert sqnr_db(got["all"], want[1]) > 45


def test_what_only_some_iterations_compute_stays_in_float() -> None:
    graph, report = graphopt.quantize(
        model(IN_A_LOOP), feeds_of(IN_A_LOOP, p=np.asarray(True)), compare=False, threads=1
    )
    (row,) = (row for row in report.layers if row.op == "MatMul")
    assert "some iterations of" in row.reason
    assert "DequantizeLinear" not in inside(graph)


def test_goals_leave_bodies_in_float() -> None:
    """What a layer costs is measured by switches, which are inputs of the outermost graph."""
    feeds = [{**feed, "p": np.asarray(i % 2 == 0)} for i, feed in enumerate(feeds_of(BRANCHES))]
    graph, report = graphopt.quantize(model(BRANCHES), feeds, min_sqnr=20, threads=1)
    assert "DequantizeLinear" not in inside(graph)
    assert {row.reason for row in report.layers if row.why == "rule"} == {"what a branch or loop costs isn't measured"}


def test_corrected_biases_are_those_outside_of_bodies() -> None:
    feeds = [{**feed, "p": np.asarray(i % 2 == 0)} for i, feed in enumerate(feeds_of(BRANCHES))]
    graph, _ = graphopt.quantize(model(BRANCHES), feeds, correct_bias=True, compare=False, threads=1)
    assert nearness(graph, BRANCHES, feeds[0]) > 28


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime", "openvino"])
def test_rules_of_runtimes_hold_in_branches(runtime: str) -> None:
    table = graphopt.RangeTable({n: Range(-6.0, 6.0) for n in ("x", "a", "r", "c", "b", "u", "v")})
    graph, _ = graphopt.quantize(model(BRANCHES), table=table, runtime=runtime, compare=False)
    onnx.checker.check_model(export_onnx(graph), full_check=True)
    for taken in (True, False):
        assert nearness(graph, BRANCHES, {**feeds_of(BRANCHES)[0], "p": np.asarray(taken)}) > 24

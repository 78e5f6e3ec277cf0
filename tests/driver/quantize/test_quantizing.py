"""graphopt.quantize with data: one pass, every form of calibration, tables, reports, and errors."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.driver.quantize.range_table import RangeTable
from graphopt.driver.quantize.value_statistics import has_samples
from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from graphopt.models import zoo
from graphopt.passes.quant.ranges import METHODS, Range
from tests.support.onnx_graphs import graph_of, model_of, rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db

BODY = "c = Conv(x, w, b)\nn = BatchNormalization(c, g, h, m, v)\nr = Relu(n)\nf = Flatten(r)\ny = Gemm(f, u)"


def net() -> Graph:
    graph = graph_of(
        {"x": "float[N,3,6,6]"}, BODY, w=rand(4, 3, 3, 3), b=rand(4), g=rand(4, positive=True), h=rand(4), m=rand(4),
        v=rand(4, positive=True), u=rand(64, 5),
    )  # fmt: skip
    for node in graph.nodes:
        node.name = node.op.lower()
    return graph


SAMPLES = rand(10, 3, 6, 6)


def test_one_pass_over_a_one_shot_iterator_one_batch_at_a_time() -> None:
    alive: list[weakref.ref[Any]] = []
    given = 0

    def batches() -> Iterator[dict[str, Any]]:
        nonlocal given
        for start in range(0, 10, 2):
            assert sum(ref() is not None for ref in alive) <= 1, "feeds are kept"
            batch = SAMPLES[start : start + 2].copy()
            alive.append(weakref.ref(batch))
            given += 1
            yield {"x": batch}
            del batch

    quantized, report = graphopt.quantize(net(), batches(), compare=False)
    assert given == 5
    assert [row.name for row in report.values] == ["x", "r", "f"]
    assert report.layers[0].node == "batchnormalization", "folded before weights are rounded"
    feeds = {"x": SAMPLES}
    got, want = (run_ort(export_onnx(g), feeds)[0] for g in (quantized, net()))
    assert sqnr_db(got, want) > 28


@pytest.mark.parametrize("method", METHODS)
def test_batches_of_any_lengths_give_the_same_table(method: str) -> None:
    tables = []
    for cuts in ([], [1, 2, 9], [4]):
        parts = [{"x": part} for part in np.split(SAMPLES, cuts)]
        _, report = graphopt.quantize(net(), parts, method=method, compare=False)
        tables.append(report.table.ranges)
    assert tables[0] == tables[1] == tables[2]


class Reader:
    """As ONNX Runtime's CalibrationDataReader."""

    def __init__(self) -> None:
        self.left = iter([{"x": SAMPLES[:4]}, {"x": SAMPLES[4:]}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


class Dataset:
    """As nncf.Dataset: samples behind a transform."""

    def get_inference_data(self, indices: Any = None) -> Iterator[Any]:
        return iter([SAMPLES[:4], SAMPLES[4:]])


def load_data() -> Iterator[dict[str, Any]]:
    """As Polygraphy takes it."""
    yield {"x": SAMPLES[:4]}
    yield {"x": SAMPLES[4:]}


def test_forms_of_calibration_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=SAMPLES)
    arrays, archives = tmp_path / "arrays", tmp_path / "archives"
    arrays.mkdir()
    archives.mkdir()
    for i in range(10):
        np.save(arrays / f"{i}.npy", SAMPLES[i : i + 1])
        np.savez(archives / f"{i}.npz", x=SAMPLES[i : i + 1])
    sources: list[Any] = [
        {"x": SAMPLES}, tmp_path / "one.npz", arrays, archives, arrays / "3.npy", Reader(), Dataset(), load_data, load_data(),
    ]  # fmt: skip
    tables = [graphopt.quantize(net(), source, compare=False)[1].table.ranges for source in sources]
    narrow = tables.pop(4)
    assert all(table == tables[0] for table in tables)
    assert narrow != tables[0]


def test_the_report_and_its_noise() -> None:
    quantized, report = graphopt.quantize(net(), {"x": SAMPLES}, exclude=["Gemm"])
    feeds = {"x": SAMPLES[:8]}
    assert report.data == "2 feeds of calibration data"
    (output,) = report.outputs
    got, want = (run_ort(export_onnx(g), {"x": SAMPLES})[0] for g in (quantized, net()))
    assert output.sqnr_db is not None
    assert abs(output.sqnr_db - sqnr_db(got, want)) < 0.5
    rows = {row.op: row for row in report.layers}
    assert rows["Gemm"].why == "asked"
    assert rows["Conv"].stored == "u8 x i8 weights (4 scales)"
    assert rows["Conv"].sqnr_db is not None
    assert rows["Conv"].sqnr_db > 28
    assert report.bytes_after < report.bytes_before
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["quantized"] == 1
    assert "Conv" in str(report)
    assert feeds["x"].shape[0] == 8


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, float | None]] = []
    for i in range(2):
        np.savez(tmp_path / f"{i}.npz", x=SAMPLES)  # two feeds of eight and two samples each
    for source in ([{"x": SAMPLES[:4]}, {"x": SAMPLES[4:]}], tmp_path, load_data, load_data()):
        graphopt.quantize(net(), source, compare=False, progress=lambda feeds, part: told.append((feeds, part)))
    assert told == [
        (1, 0.5), (2, 1.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0), (1, None), (2, None), (1, None), (2, None),
    ]  # fmt: skip


def test_results_are_compared_on_the_first_feeds() -> None:
    graph = graph_of({"x": "float[1,8]"}, "y = MatMul(x, w)", w=rand(8, 8))
    _, report = graphopt.quantize(graph, ({"x": rand(1, 8, seed=i)} for i in range(12)))
    assert report.data == "the first 8 of 12 feeds of calibration data"
    _, report = graphopt.quantize(graph, {"x": rand(1, 8)})
    assert report.data == "1 feed of calibration data"


def test_tables_are_written_edited_and_used_without_data(tmp_path: Path) -> None:
    first, report = graphopt.quantize(net(), {"x": SAMPLES}, method="entropy", compare=False)
    path = tmp_path / "table.json"
    report.table.save(path)
    again, _ = graphopt.quantize(net(), table=path)
    assert export_onnx(again) == export_onnx(first)
    _, replayed = graphopt.quantize(net(), table=path)
    assert replayed.method == "entropy"
    data = json.loads(path.read_text())
    assert (data["method"], data["level"]) == ("entropy", 2)
    data["values"]["x"] = {"low": -10, "high": 15.5}
    path.write_text(json.dumps(data))
    _, edited = graphopt.quantize(net(), table=str(path))
    assert (edited.values[0].low, edited.values[0].high, edited.values[0].scale) == (-10, 15.5, np.float32(0.1))
    del data["values"]["x"]
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="the table has no range for %x"):
        graphopt.quantize(net(), table=path)
    both, _ = graphopt.quantize(net(), {"x": SAMPLES}, table=path, method="entropy", compare=False)
    assert export_onnx(both) == export_onnx(first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": {"xx": {"low": 0, "high": 1}}}, "no such value"),
        ({"values": {"x": {"low": 2, "high": 1}}}, "range of %x"),
        ({"values": {"x": {"low": 0, "high": float("nan")}}}, "range of %x"),
        ({"values": {"x": [0, 1]}}, "range of %x"),
        ({"level": 1}, "-O1"),
        ({"format": "graphopt-plan-1"}, "plan of kernels"),
        ({"formatt": 1}, "no 'formatt'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "table.json"
    data = {"format": "graphopt-ranges-1", "values": {"x": {"low": 0, "high": 1}}}
    path.write_text(json.dumps({**data, **change}))
    with pytest.raises(UserError) as caught:
        graphopt.quantize(net(), table=path)
    assert words in str(caught.value)


def overflowing() -> Graph:
    return graph_of({"x": "float[2,4]"}, "a = MatMul(x, w)\ne = Exp(a)\ny = MatMul(e, w)", w=rand(4, 4))


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (None, {}, "without calibration data"),
        ([], {}, "no calibration samples"),
        ({"z": SAMPLES}, {}, "'z'"),
        ({"x": SAMPLES[:, :2]}, {}, "x"),
        ({"x": SAMPLES * np.nan}, {}, "NaN"),
        (7, {}, "can't be a int"),
        ({"x": SAMPLES}, {"method": "minmx"}, "did you mean 'minmax'"),
        ({"x": SAMPLES}, {"activations": "s4"}, "s4"),
        ({"x": SAMPLES}, {"weights": "s4"}, "s4"),
        ({"x": SAMPLES}, {"percentile": 12}, "12 percent"),
        ({"x": SAMPLES}, {"exclude": ["Convv"]}, "did you mean 'Conv'"),
    ],
)
def test_what_is_refused(data: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        graphopt.quantize(net(), data, **options)
    assert words in str(caught.value)


def test_an_activation_that_overflows_is_named() -> None:
    with pytest.raises(UserError, match="%e is infinite"):
        graphopt.quantize(overflowing(), {"x": np.full((2, 4), 1e3, np.float32)})


def test_a_first_axis_that_is_no_batch() -> None:
    body = "a = MatMul(x, w)\nt = MatMul(s, w)\nk = Concat<axis=0>(a, t)\ny = MatMul(k, w)"
    graph = graph_of({"x": "float[T,8]", "s": "float[3,8]"}, body, w=rand(8, 8))
    assert not any(has_samples(graph, value) for value in graph.inputs)
    fixed = graph_of({"x": "float[2,8]"}, "y = MatMul(x, w)", w=rand(8, 8))
    assert not has_samples(fixed, fixed.inputs[0]), "two rows of one sample perhaps"
    assert has_samples(net(), net().inputs[0])
    feeds = {"x": rand(20, 8), "s": rand(3, 8)}
    quantized, _ = graphopt.quantize(graph, feeds, compare=False)
    assert sqnr_db(*(run_ort(export_onnx(g), feeds)[0] for g in (quantized, graph))) > 28


def test_branches_that_read_what_data_shows() -> None:
    kinds = {"x": onnx.TensorProto.FLOAT, "p": onnx.TensorProto.BOOL, "y": onnx.TensorProto.FLOAT}
    x, p, y = (helper.make_tensor_value_info(n, kind, [] if n == "p" else [2, 4]) for n, kind in kinds.items())
    then, other = (
        helper.make_graph(
            [helper.make_node("MatMul", ["a", "w"], [name])], name, [],
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 4])],
        )
        for name in ("then", "other")
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("If", ["p"], ["y"], then_branch=then, else_branch=other),
    ]
    graph = helper.make_graph(nodes, "g", [x, p], [y], [numpy_helper.from_array(rand(4, 4), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    feeds = {"x": rand(2, 4), "p": np.asarray(True)}
    quantized, report = graphopt.quantize(model, feeds, compare=False)
    assert [row.node for row in report.quantized] == [node.name for node in quantized.walk() if node.op == "MatMul"]
    assert sqnr_db(run_ort(export_onnx(quantized), feeds)[0], run_ort(model, feeds)[0]) > 28


def test_a_model_older_than_scales_along_an_axis() -> None:
    """Opset 11 has no QuantizeLinear per channel, so the file gets the opset that has."""
    model = model_of({"x": "float[2,8]"}, "y = MatMul(x, w)", opset=11, w=rand(8, 4))
    for options, least in (({}, 13), ({"activations": "u16"}, 21)):
        graph, _ = graphopt.quantize(model, {"x": rand(2, 8)}, compare=False, **options)
        exported = export_onnx(graph)
        assert exported.opset_import[0].version >= least
        onnx.checker.check_model(exported, full_check=True)
        assert sqnr_db(*(run_ort(m, {"x": rand(2, 8)})[0] for m in (exported, model))) > 28


def test_table_text() -> None:
    table = RangeTable({"a": Range(-1.5, 2.0)}, "minmax", 2, "0.1.0")
    assert RangeTable.from_json(table.to_json()).ranges == table.ranges
    assert '    "a": {"low": -1.5, "high": 2.0}' in table.to_json()


@pytest.mark.parametrize(
    "options", [{}, {"activations": "s8"}, {"method": "entropy"}, {"method": "mse"}, {"method": "percentile"}]
)
def test_digits_are_read_as_well(options: dict[str, Any]) -> None:
    images, labels = zoo.digits_test()
    graph = graphopt.import_onnx(zoo.get("digits").path())
    quantized, report = graphopt.quantize(graph, {"image": images[:100]}, compare=False, **options)
    right = [int((run_ort(export_onnx(g), {"image": images})[0].argmax(1) == labels).sum()) for g in (graph, quantized)]
    assert len(labels) == 450
    assert abs(right[0] - right[1]) <= 1
    assert {row.op for row in report.kept} == set()

"""``graphopt.sparsify``: the report says what is in the graph and in the compiled file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.driver import sparsity
from graphopt.driver.importing import import_onnx
from graphopt.errors import CompileError, UserError
from graphopt.ir.graph import Graph
from graphopt.models import zoo
from graphopt.runtime.artifact import read_artifact
from tests.support.onnx_graphs import model_of, rand


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsity, "REPEAT", 2)


@pytest.fixture(scope="module")
def net() -> Graph:
    """Two products, 96 and 48 KB."""
    body = "[first] h = MatMul(x, a)\n[act] r = Relu(h)\n[second] y = MatMul(r, b)"
    return import_onnx(model_of({"x": "float[N,192]"}, body, a=rand(192, 128), b=rand(128, 96)))


def zeros_of(graph: Graph) -> int:
    return sum(int((v.data == 0).sum()) for v in graph.constants() if v.data is not None)


def test_the_report_says_what_is_there(net: Graph, tmp_path: Path) -> None:
    sparse, report = graphopt.sparsify(net, ratio=0.8, threads=1)
    assert zeros_of(net) == 0
    assert zeros_of(sparse) == report.zeros.after == 29491
    assert [(r.layer, r.elements, r.after) for r in report.layers] == [("first", 24576, 19661), ("second", 12288, 9830)]
    path = tmp_path / "sparse.gopt"
    model = graphopt.compile(sparse, "native", threads=1)
    model.save(path)
    assert report.artifact_bytes is not None
    assert report.artifact_bytes.after == path.stat().st_size
    assert report.dense_bytes == pytest.approx(report.artifact_bytes.before, rel=0.01)
    assert report.artifact_bytes.before - report.artifact_bytes.after == pytest.approx(0.77 * 4 * 36864, rel=0.05)
    entries = read_artifact(path).manifest["constants"]
    assert sum(row.compressed for row in report.stored) == sum("encoding" in e for e in entries) == 2
    assert sum(row.bytes for row in report.stored) == sum(e["nbytes"] for e in entries)
    assert report.latency_ms is not None
    assert any("no kernel skips zeros" in note for note in report.notes)
    assert report.data == "random inputs, seed 0"
    assert report.to_dict()["zeros"] == {"before": 0, "after": 29491}


def test_sqnr_is_that_of_the_outputs(net: Graph) -> None:
    x = {"x": rand(5, 192, seed=3)}
    sparse, report = graphopt.sparsify(net, ratio=0.5, calibration=x, reconstruct=False, threads=1)
    want, got = (graphopt.compile(g, "native", threads=1).run(x)["y"].astype(np.float64) for g in (net, sparse))
    assert report.outputs[0].sqnr_db == pytest.approx(
        10 * np.log10(np.square(want).sum() / np.square(got - want).sum()), abs=0.01
    )
    assert report.data == "1 feed of calibration data"


def test_wanda_beats_magnitude_where_inputs_differ_in_size(net: Graph) -> None:
    x = {"x": rand(64, 192) * np.resize([0.1, 1, 10, 3], 192).astype(np.float32)}
    found = {}
    for method in ("magnitude", "wanda"):
        _, report = graphopt.sparsify(net, pattern="2:4", method=method, calibration=x, reconstruct=False, threads=1)
        found[method] = report.outputs[0].sqnr_db or 0.0
        assert report.zeros.after == 18432
        assert report.ratio == 0.5
    assert found["wanda"] > found["magnitude"] + 1


def test_wanda_wants_data(net: Graph) -> None:
    with pytest.raises(UserError) as caught:
        graphopt.sparsify(net, ratio=0.5, method="wanda")
    assert caught.value.code == "needs-calibration"


def test_without_compiling(net: Graph) -> None:
    _, report = graphopt.sparsify(net, ratio=0.5, compiled=False)
    assert (report.artifact_bytes, report.latency_ms, report.outputs, report.stored) == (None, None, (), ())
    assert report.zeros.after == 18432


def test_without_a_linker(net: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> int:
        raise CompileError("no linker")

    monkeypatch.setattr(sparsity, "file_bytes", none)
    _, report = graphopt.sparsify(net, ratio=0.5, threads=1)
    assert report.artifact_bytes is None
    assert any("no linker" in note for note in report.notes)
    assert report.outputs


def test_for_another_machine(net: Graph) -> None:
    _, report = graphopt.sparsify(net, ratio=0.5, target="arm:cortex-a76")
    assert report.latency_ms is None
    assert any("latency was not measured" in note for note in report.notes)
    assert report.outputs[0].sqnr_db
    assert report.stored


def test_channels_that_lost_everything_are_named(net: Graph) -> None:
    work = import_onnx(
        model_of({"x": "float[2,8]"}, "[l] y = Gemm<transB=1>(x, w)", w=np.diag(np.arange(8.0)).astype("f"))
    )
    _, report = graphopt.sparsify(work, ratio=0.95, compiled=False)
    assert any("5 rows of weights in 1 layers are all zero, 5 of them in l" in note for note in report.notes)


def test_digits_keep_their_accuracy_at_half() -> None:
    images, labels = zoo.digits_test()
    graph = import_onnx(zoo.get("digits").path(), shapes={"image": "450x1x8x8"})
    for kwargs in ({"ratio": 0.5}, {"pattern": "2:4"}):
        sparse, report = graphopt.sparsify(graph, compiled=False, **kwargs)  # type: ignore[arg-type]
        model = graphopt.compile(sparse, "native", threads=1)
        assert (model.run({"image": images})["logits"].argmax(1) == labels).mean() > 0.95
        assert report.zeros.after > 11000


def test_reconstruction_recovers_most_of_the_loss() -> None:
    images, labels = zoo.digits_test()
    graph = import_onnx(zoo.get("digits").path(), shapes={"image": "Nx1x8x8"})
    right = {}
    for reconstruct in (False, True):
        sparse, report = graphopt.sparsify(
            graph, pattern="1:4", calibration={"image": images[:128]}, reconstruct=reconstruct, compiled=False
        )
        found = graphopt.compile(sparse, "native", threads=1).run({"image": images[128:]})["logits"].argmax(1)
        right[reconstruct] = float((found == labels[128:]).mean())
        assert report.reconstructed == (("conv2", "conv3", "conv4", "fc") if reconstruct else ())
    assert right[True] > 0.95
    assert right[False] < 0.75


def test_reconstruction_wants_data(net: Graph) -> None:
    with pytest.raises(UserError) as caught:
        graphopt.sparsify(net, ratio=0.5, reconstruct=True)
    assert caught.value.code == "needs-calibration"

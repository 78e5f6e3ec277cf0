"""graphopt.convert with calibration data and with a largest error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.precision.noise import Noise
from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort
from tests.support.precision import computed_in, run, sqnr_db

CHAIN = "a = MatMul(x, w)\nb = MatMul(a, big)\nc = MatMul(b, small)\nd = MatMul(c, w)\ny = Softmax(d)"


def chain() -> Graph:
    """Values that leave float16's range in the middle of the net; no constant does."""
    return graph_of(
        {"x": "float[N,8]"}, CHAIN, w=rand(8, 8), big=rand(8, 8) * 1e4, small=rand(8, 8) * 1e-3,
    )  # fmt: skip


def test_what_overflows_stays() -> None:
    feeds = {"x": rand(4, 8)}
    _, plain = graphopt.convert(chain(), "fp16")
    assert [row.op for row in plain.kept] == ["Softmax"], "by rule alone the net would overflow"
    narrow, report = graphopt.convert(chain(), "fp16", calibration=feeds)
    kept = {row.node: (row.why, row.reason) for row in report.kept}
    assert {name for name, (why, _) in kept.items() if why == "data"} == {"b", "c"}
    assert "%b reaches" in kept["b"][1]
    assert "beyond float16" in kept["b"][1]
    got, want = run_ort(graphopt.export_onnx(narrow), feeds), run_ort(graphopt.export_onnx(chain()), feeds)
    assert sqnr_db(got[0], want[0]) > 40
    assert {name: str(t) for name, t in computed_in(narrow).items()} == {
        "a": "f16", "b": "f32", "c": "f32", "d": "f16", "y": "f32",
    }  # fmt: skip
    _, wide = graphopt.convert(chain(), "bf16", calibration=feeds)
    assert [row.op for row in wide.kept] == ["Softmax"]


def test_inputs_that_overflow_keep_their_readers() -> None:
    graph = graph_of(
        {"x": "float[4,8]"}, "a = MatMul(x, w)\nt = Tanh(a)\ny = MatMul(t, v)", w=rand(8, 8) * 1e-4, v=rand(8, 8)
    )
    _, report = graphopt.convert(graph, "fp16", calibration={"x": rand(4, 8) * 1e5})
    (row,) = report.kept
    assert row.node == "a"
    assert "%x reaches" in row.reason


def test_what_vanishes_stays() -> None:
    graph = graph_of({"x": "float[4,8]"}, "a = MatMul(x, w)\nb = Mul(a, s)\nc = Mul(b, t)\ny = MatMul(c, w)", w=rand(8, 8),
                     s=np.float32(1e-4), t=np.float32(1e4))  # fmt: skip
    _, report = graphopt.convert(graph, "fp16", calibration={"x": rand(4, 8) * 0.01}, level=0)
    kept = {row.node: row.reason for row in report.kept}
    assert set(kept) == {"b", "c"}
    assert "of %b is below 6.1e-05 and vanishes in float16" in kept["b"]


def test_the_noise_of_every_layer() -> None:
    """Against ONNX's evaluator; ONNX Runtime leaves out the rounding before a Cast to float32."""
    graph = graph_of(
        {"x": "float[4,8]"},
        "a = MatMul(x, w)\nb = Neg(a)\nc = Softmax(b)\ny = MatMul(c, w)",
        "y a b c",
        w=rand(8, 8),
    )
    feeds = {"x": rand(4, 8)}
    narrow, report = graphopt.convert(graph, "fp16", calibration=feeds)
    found = {row.node: row.sqnr_db for row in report.nodes}
    model = graphopt.export_onnx(graph)
    want = dict(zip([o.name for o in model.graph.output], run_ort(model, feeds)))
    model = graphopt.export_onnx(narrow)
    got = dict(zip([o.name for o in model.graph.output], run(model, feeds, reference=True)))
    for name in "abcy":
        db = found[name]
        assert db is not None
        assert abs(db - sqnr_db(got[name], want[name])) < 1.5
    (row,) = [row for row in report.outputs if row.name == "y"]
    assert row.sqnr_db == found["y"]
    assert row.error == pytest.approx(10 ** (-found["y"] / 20))
    assert report.data == "1 feed of calibration data"


def test_noise() -> None:
    noise = Noise()
    noise.add(np.array([3.0, np.inf, 4.0]), np.array([3.0, np.inf, 4.5]))
    assert noise.error == pytest.approx(0.1)
    assert noise.sqnr_db == pytest.approx(20.0)
    noise.add(np.array([1.0]), np.array([np.nan]))
    assert noise.error == np.inf
    assert noise.sqnr_db == -np.inf
    assert Noise().error == 0.0


def cancelling() -> Graph:
    """The difference of two nearly equal products, and layers that are harmless."""
    w = rand(16, 16)
    body = "p = MatMul(x, u)\nq = Tanh(p)\nr = MatMul(q, u)\na = MatMul(x, w)\nb = MatMul(x, v)\nd = Sub(a, b)"
    body += "\ny = Concat<axis=1>(d, r)"
    return graph_of({"x": "float[4,16]"}, body, u=rand(16, 16) * 0.1, w=w, v=w + rand(16, 16, seed=1) * 3e-2)


@pytest.mark.parametrize("data", [None, {"x": rand(4, 16)}])
def test_sensitive_nodes_go_back_until_the_error_holds(data: Any) -> None:
    _, plain = graphopt.convert(cancelling(), "bf16", calibration={"x": rand(4, 16)})
    assert plain.error is not None
    assert plain.error > 0.02
    narrow, report = graphopt.convert(cancelling(), "bf16", calibration=data, max_error=0.01)
    assert report.error is not None
    assert report.error <= report.max_error == 0.01
    back = {row.node for row in report.kept if row.why == "sensitivity"}
    assert {"a", "b", "d"} <= back
    assert not {"p", "q"} & back, "what is harmless stays in 16 bits"
    assert str(report.data).startswith("random" if data is None else "1 feed")
    assert "p" in {row.node for row in report.converted}
    assert narrow.outputs[0].dtype.bits == 32


def test_nothing_goes_back_where_the_error_holds() -> None:
    _, report = graphopt.convert(cancelling(), "fp16", max_error=0.5)
    assert not report.kept
    assert report.error is not None
    assert 0 < report.error < 0.5


def test_an_error_that_can_not_be_met() -> None:
    with pytest.raises(UserError, match="even with every node in float32") as caught:
        graphopt.convert(cancelling(), "bf16", max_error=1e-5, io="cast")
    assert "--io keep" in str(caught.value.hint)
    _, report = graphopt.convert(cancelling(), "bf16", max_error=1e-9)
    assert report.error == 0.0
    assert not report.converted


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"z": rand(4, 8)}, "'z'"),
        ({"x": np.full((4, 8), np.nan, np.float32)}, "NaN"),
        ({"x": rand(4, 7)}, "x"),
        ("missing.npz", "does not exist"),
    ],
)
def test_bad_calibration(data: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        graphopt.convert(chain(), "fp16", calibration=data)
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("error", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_errors(error: float) -> None:
    with pytest.raises(UserError, match="can't be met"):
        graphopt.convert(chain(), "fp16", max_error=error)


def test_calibration_files(tmp_path: Path) -> None:
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=rand(4, 8, seed=i))
    _, report = graphopt.convert(chain(), "fp16", calibration=tmp_path)
    assert {row.node for row in report.kept if row.why == "data"} == {"b", "c"}


def test_what_is_in_branches_is_said_to_be_unseen() -> None:
    then, other = "g1 () => (float[3,6] t) { t = MatMul(x, w) }", "g2 () => (float[3,6] e) { e = Softmax(x) }"
    branches = f"then_branch = {then}, else_branch = {other}"
    graph = graph_of({"x": "float[3,6]", "c": "bool[]"}, f"b = If<{branches}>(c)\ny = MatMul(b, w)", w=rand(6, 6))
    _, report = graphopt.convert(graph, "fp16", calibration={"x": rand(3, 6), "c": np.array(True)})
    assert any("2 nodes in branches and loops" in note for note in report.notes)

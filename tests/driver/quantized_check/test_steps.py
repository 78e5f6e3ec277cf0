"""Integers that differ at a tie are right, and no others; what quantized models are checked by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from graphopt.driver.checking import Options, check_model
from graphopt.driver.optimizing import export_onnx
from graphopt.driver.quantized_check.cut import cut_graph, quantizing_nodes
from graphopt.driver.quantized_check.steps import SteppedCheck, stepped_check
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from tests.support.onnx_graphs import graph_of, model_of, rand
from tests.support.ort import run_ort

STEP = np.float32(0.25)
BODY = """
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    p = MatMul(d, w)
    r = QuantizeLinear(p, s, z)
    e = DequantizeLinear(r, s, z)
    y = MatMul(e, w)"""
CONSTS = {"s": STEP, "z": np.uint8(100), "w": rand(8, 8)}
X = (np.arange(16, dtype=np.float32).reshape(2, 8) - 7) * STEP  # at no tie
TIED = X + STEP / 2
TIED[:, 1:] = X[:, 1:]


def net(**changed: Any) -> Graph:
    return graph_of({"x": "float[2,8]"}, BODY, **{**CONSTS, **changed})


def compiled_as(x: Any = X, **changed: Any) -> Callable[[Graph], Mapping[str, Any]]:
    """A compiled model that sees other numbers than it should, and computes right from there on."""

    def run(graph: Graph) -> Mapping[str, Any]:
        other = net(**changed)
        for node, twin in zip(graph.nodes, other.nodes):
            for value, new in zip(node.inputs, twin.inputs):
                if value is not None and value.data is not None and new is not None:
                    value.data = new.data
        return dict(zip([v.name for v in graph.outputs], run_ort(export_onnx(graph), {"x": x})))

    return run


def checked(run: Callable[[Graph], Mapping[str, Any]], x: Any) -> SteppedCheck:
    return stepped_check(net(), run, {"x": x}, "onnxruntime")


def test_the_same_is_right() -> None:
    found = checked(compiled_as(TIED), TIED)
    assert found.ok
    assert found.ties == 0
    assert [step.value for step in found.steps] == ["x", "p"]
    assert [c.name for c in found.outputs] == ["y"]


@pytest.mark.parametrize(("by", "ok"), [(2e-7, True), (-2e-7, True), (1e-3, True)])
def test_a_step_at_a_tie_is_right_whatever_comes_of_it(by: float, ok: bool) -> None:
    found = checked(compiled_as(TIED * np.float32(1 + by)), TIED)
    assert found.ok is ok
    assert found.ties > 0
    assert found.steps[0].most == 1
    assert found.steps[0].wrong == 0


@pytest.mark.parametrize(("change", "most"), [(0.6 * STEP, 1), (-0.6 * STEP, 1), (1.6 * STEP, 2), (40 * STEP, 40)])
def test_a_step_elsewhere_is_wrong(change: float, most: int) -> None:
    x = X.copy()
    x[1, 3] += change
    (first, second) = checked(compiled_as(x), X).steps
    assert (first.most, first.ties, first.wrong) == (most, 0, 1)
    assert "1 of 16 integers" in (first.problem or "")
    assert second.wrong == 0, "it is computed from the integers that were made"


def test_two_steps_at_a_tie_are_wrong() -> None:
    x = TIED.copy()
    x[0, 0] += 2.5 * STEP
    (first, _) = checked(compiled_as(x), TIED).steps
    assert (first.most, first.wrong) == (2, 1)


def test_a_wrong_layer_is_told_from_those_behind_it() -> None:
    w = CONSTS["w"].copy()
    w[2, 5] += 0.5
    found = checked(compiled_as(w=w), X)
    assert found.steps[0].problem is None
    assert found.steps[1].problem is not None
    assert not found.outputs[0].ok
    assert not found.ok


def test_what_is_cut() -> None:
    graph = net()
    cut = cut_graph(graph)
    assert [v.name for v in cut.inputs] == ["x", "q_given", "r_given"]
    assert [v.name for v in cut.outputs] == ["q", "p", "r", "y"]
    assert len(graph.inputs) == 1
    constant = graph_of({"x": "float[2,8]"}, "q = QuantizeLinear(x, s, z)\nd = DequantizeLinear(q, s, z)\ny = Add(d, x)",
                        s=STEP, z=np.uint8(0))  # fmt: skip
    assert [node.out.name for node in quantizing_nodes(constant)] == ["q"]
    scaled = graph_of({"x": "float[2,8]", "s": "float[]"}, "q = QuantizeLinear(x, s)\ny = DequantizeLinear(q, s)")
    assert quantizing_nodes(scaled) == [], "a scale that only data knows"


def tied_model() -> tuple[Any, dict[str, Any]]:
    """Every result of the first product lies at a tie of its channel's scale, as near as float32 gets."""
    w, x = rand(256, 96), rand(1, 256)
    product = (x.astype(np.float64) @ w)[0]
    scale = (np.abs(product) / (np.arange(96) % 60 + 30.5)).astype(np.float32)
    body = """
        p = MatMul(x, w)
        r = QuantizeLinear<axis=1>(p, s, z)
        e = DequantizeLinear<axis=1>(r, s, z)
        y = MatMul(e, v)"""
    return model_of({"x": "float[1,256]"}, body, w=w, s=scale, z=np.zeros(96, np.int8), v=rand(96, 4), opset=21), {
        "x": x
    }


def test_models_whose_floats_lie_at_ties_pass() -> None:
    model, feed = tied_model()
    report = check_model(model, Options(threads=1), feed=feed, reference="onnx")
    assert report.ties > 5, "the model needs it"
    assert report.ok
    assert report.error() is None
    assert report.culprit is None


@pytest.mark.parametrize(("change", "culprit"), [("w", "MatMul"), ("v", "MatMul")])
def test_a_wrong_kernel_beside_ties_is_found(monkeypatch: pytest.MonkeyPatch, change: str, culprit: str) -> None:
    """One weight is another one in what is compiled, as if the compiler had a bug."""
    model, feed = tied_model()
    true = Options.compile

    def buggy(self: Options, graph: Graph) -> Any:
        wrong = clone(graph)
        (value,) = [value for value in wrong.constants() if value.name == change]
        assert value.data is not None
        value.data = value.data.copy()
        value.data[3, 2] += 30
        return true(self, wrong)

    monkeypatch.setattr(Options, "compile", buggy)
    report = check_model(model, Options(threads=1), feed=feed, reference="onnx")
    assert not report.ok
    assert culprit in (report.culprit or "")
    assert report.ties == 0
    if change == "v":
        assert "all integers are right, and 'y' isn't what comes of them" in report.explanation
    else:
        assert "the first integers that differ are 'r', made from 'p'" in report.explanation


@pytest.mark.parametrize("got", [{}, {"y": np.zeros((1, 4), np.float32)}])
def test_outputs_that_were_not_looked_at_are_not_settled(monkeypatch: pytest.MonkeyPatch, got: Any) -> None:
    """The run whose integers are seen may be another one than that whose outputs differ."""
    model, feed = tied_model()
    monkeypatch.setattr("graphopt.driver.checking.stepped_check", lambda *args: SteppedCheck((), (), got))
    assert not check_model(model, Options(threads=1), feed=feed, reference="onnx").ok


def test_float_models_are_compared_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Any:
        raise AssertionError("a float model has no integers to look at")

    monkeypatch.setattr("graphopt.driver.checking.stepped_check", never)
    true = Options.compile

    def buggy(self: Options, graph: Any) -> Any:
        for value in graph.constants():
            value.data = value.data * np.float32(1.01)
        return true(self, graph)

    monkeypatch.setattr(Options, "compile", buggy)
    model = model_of({"x": "float[1,8]"}, "y = MatMul(x, w)", w=rand(8, 4))
    assert not check_model(model, Options(threads=1)).ok

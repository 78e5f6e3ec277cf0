"""Checking finds differences and where they start; the table of tolerances behaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.driver import checking
from graphopt.driver.accuracy import compare, compare_all, longest_sum, sum_length, summing_depth
from graphopt.driver.checking import Options, check_model
from graphopt.driver.importing import import_onnx
from graphopt.driver.random_inputs import random_inputs
from graphopt.driver.reference import make_reference
from graphopt.errors import UserError
from graphopt.ir.dims import symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.outputs import inner_values, with_outputs
from graphopt.models import zoo
from graphopt.runtime.signature import Signature, TensorSpec


def chain() -> onnx.ModelProto:
    """``y = relu(x @ w + b) * 3``, every node named."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
            helper.make_node("Add", ["p", "b"], ["s"], name="bias"),
            helper.make_node("Relu", ["s"], ["r"], name="relu"),
            helper.make_node("Mul", ["r", "three"], ["y"], name="scale"),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [
            onnx.numpy_helper.from_array(rng.standard_normal((16, 4)).astype(np.float32), "w"),
            onnx.numpy_helper.from_array(rng.standard_normal(4).astype(np.float32), "b"),
            onnx.numpy_helper.from_array(np.array(3, np.float32), "three"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_correct_model_passes() -> None:
    report = check_model(chain(), Options(threads=1), reference="onnx", seed=5)
    assert report.ok
    assert report.error() is None
    assert report.layers == []


@pytest.mark.parametrize(("wrong", "node"), [("p", "product (MatMul)"), ("r", "relu (Relu)"), ("y", "scale (Mul)")])
def test_the_first_wrong_node_is_named(monkeypatch: pytest.MonkeyPatch, wrong: str, node: str) -> None:
    """The model compiled is another one from node ``wrong`` on, as if the compiler had a bug there."""
    true = Options.compile

    def buggy(self: Options, graph: Any) -> Any:
        model = true(self, graph)
        order = ["p", "s", "r", "y"]
        run = model.run

        def spoilt(feed: Any) -> Any:
            return {k: v + np.float32(0.5) if order.index(k) >= order.index(wrong) else v for k, v in run(feed).items()}

        model.run = spoilt
        return model

    monkeypatch.setattr(Options, "compile", buggy)
    report = check_model(chain(), Options(threads=1), reference="onnx")
    assert not report.ok
    assert report.culprit == node
    error = report.error()
    assert error is not None
    assert error.exit_code == 3
    assert error.node == node


def test_a_fault_of_fusion_is_found_by_bisection(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Options.compile

    def buggy(self: Options, graph: Any) -> Any:
        model = true(self, graph)
        if len(graph.outputs) == 1 and graph.outputs[0].name in ("r", "y"):  # wrong only when nothing else is visible
            run = model.run
            model.run = lambda feed: {k: v + np.float32(1) for k, v in run(feed).items()}
        return model

    monkeypatch.setattr(Options, "compile", buggy)
    report = check_model(chain(), Options(threads=1), reference="onnx")
    assert report.culprit == "relu (Relu)"
    assert "fusion" in report.explanation


def test_exposing_values_leaves_the_graph_alone() -> None:
    graph = import_onnx(chain())
    names = [v.name for v in inner_values(graph)]
    assert names == ["p", "s", "r", "y"]
    assert [v.name for v in with_outputs(graph, ["s"]).outputs] == ["s"]
    assert [v.name for v in graph.outputs] == ["y"]
    with pytest.raises(KeyError):
        with_outputs(graph, ["nothing"])


def test_references_agree() -> None:
    pytest.importorskip("onnxruntime")
    model = zoo.get("digits")
    feed = model.inputs()
    a, b = (make_reference(model.path(), kind)(feed) for kind in ("onnxruntime", "onnx"))
    assert all(c.ok for c in compare_all(a, b, reduction=288, depth=5))
    assert make_reference(model.path()).kind == "onnxruntime"


def test_unusable_references() -> None:
    with pytest.raises(UserError, match="unknown reference"):
        make_reference(chain(), "tensorflow")
    with pytest.raises(UserError, match="fails on the model"):
        make_reference(chain(), "onnx")({"x": np.zeros((2, 3), np.float32)})


def test_without_onnxruntime_the_evaluator_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.driver.reference.has_onnxruntime", lambda: False)
    assert make_reference(chain()).kind == "onnx"
    with pytest.raises(UserError, match="not installed") as caught:
        make_reference(chain(), "onnxruntime")
    assert caught.value.hint is not None
    assert checking.make_reference is not None


def test_random_inputs_fit_and_repeat() -> None:
    n, h = symbol("n"), symbol("h")
    signature = Signature(
        (
            TensorSpec("image", DType.f32, (n, 3, h, h)),
            TensorSpec("bytes", DType.u8, (n, 64)),
            TensorSpec("mask", DType.bool_, (n,)),
            TensorSpec("ids", DType.i64, (n, 7)),
        ),
        (),
    )
    feed, again = random_inputs(signature, 1), random_inputs(signature, 1)
    assert feed["image"].shape == (2, 3, 64, 64)
    assert feed["bytes"].max() > 200
    assert set(feed["ids"].reshape(-1)) <= {0, 1, 2}
    assert all(np.array_equal(feed[k], again[k]) for k in feed)
    assert not np.array_equal(feed["image"], random_inputs(signature, 2)["image"])
    assert random_inputs(signature, 0, {"n": 5, "h": 9})["image"].shape == (5, 3, 9, 9)


def test_impossible_sizes_ask_for_shapes() -> None:
    n, m = symbol("n"), symbol("m")
    signature = Signature((TensorSpec("a", DType.f32, (n, m)),), (), ((n, m * 2, "they are concatenated"),))
    with pytest.raises(UserError, match="can't guess") as caught:
        random_inputs(signature)
    assert "--shape" in (caught.value.hint or "")


def test_lengths_of_sums() -> None:
    graph = import_onnx(chain())
    assert longest_sum(graph) == 16
    assert summing_depth(graph) == 1
    assert [sum_length(node) for node in graph.nodes] == [16, 1, 1, 1]
    digits = import_onnx(zoo.get("digits").path())
    assert summing_depth(digits) >= 4
    assert longest_sum(digits) >= 9


def test_comparison_of_what_is_not_float() -> None:
    a = np.array(["x", "y"], object)
    assert compare("s", a, a).ok
    assert not compare("s", np.array(["x", "z"], object), a).ok
    assert not compare("i", np.array([1, 2]), np.array([1, 3])).ok
    assert compare("e", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).ok
    assert not compare("z", np.full(3, 1e-30, np.float32), np.zeros(3, np.float32)).ok
    assert compare_all({}, {"gone": np.zeros(2)})[0].problem == "missing"

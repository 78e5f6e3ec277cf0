"""Repaired layers: exact where removed channels are linear in those that stay, least squares where not, never worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.calibration import load_calibration
from graphopt.driver.compiling import signature_of
from graphopt.errors import UserError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Graph, Value
from graphopt.ir.outputs import with_outputs
from graphopt.ir.types import TensorType
from graphopt.ir.verifier import verify
from graphopt.models import zoo
from graphopt.ops.infer import infer_node
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.recovery.reconstruct import LayerRepair, ReconstructionReport, reconstruct
from tests.support.ort import run_ort


def runner(graph: Graph, names: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
    """By ONNX Runtime, not optimised."""
    inner = [n for n in dict.fromkeys(names) if n not in feed]
    model = graphopt.export_onnx(with_outputs(graph, inner))
    return {**dict(zip(inner, run_ort(model, feed))), **feed}


class Net:
    """A graph under construction, with random weights."""

    def __init__(self, *shape: int) -> None:
        self.graph = Graph("net", opset=18)
        self.editor = Editor(self.graph, infer_node)
        self.x = self.editor.add_input("x", TensorType(DType.f32, shape))
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int, name: str = "w") -> Value:
        return self.editor.constant(self.rng.standard_normal(shape).astype(np.float32), name)

    def node(self, op: str, *inputs: Value | None, name: str | None = None, **attrs: Any) -> Value:
        return self.editor.node(op, inputs, attrs, name=name or op.lower()).out

    def done(self, *values: Value) -> Graph:
        self.editor.set_outputs(self.graph, values)
        return self.graph


def prune(graph: Graph, part: float = 0.5, names: Sequence[str] | None = None) -> tuple[PrunePlan, Graph]:
    """Remove the last channels of every group, or of the named ones."""
    groups = find_groups(graph)
    removed = {}
    for group in groups.groups:
        if names is None or group.name in names:
            mask = np.zeros(group.size, bool)
            mask[group.size - int(group.size * part) :] = True
            removed[group.index] = mask
    plan = PrunePlan(groups, removed)
    return plan, apply_plan(plan)


def feeds(*shape: int, count: int = 8) -> list[dict[str, Array]]:
    rng = np.random.default_rng(5)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def error(original: Graph, other: Graph, feed: Mapping[str, Array]) -> float:
    names = [v.name for v in original.outputs]
    want, got = runner(original, names, feed), runner(other, names, feed)
    return max(float(np.square(want[n] - got[n]).sum() / np.square(want[n]).sum()) for n in names)


def changed(report: ReconstructionReport) -> dict[str, LayerRepair]:
    return {layer.name: layer for layer in report.layers if layer.changed}


# -- exact ------------------------------------------------------------------------------------------------------------
def after_pixels(consumer: Callable[[Net, Value], Value]) -> Graph:
    """3 input channels, 12 linear ones made of them, and a layer that reads these."""
    net = Net(2, 3, 9, 8)
    hidden = net.node("Conv", net.x, net.weight(12, 3, 1, 1), name="maker")
    return net.done(consumer(net, hidden))


CONSUMERS: dict[str, Callable[[Net, Value], Value]] = {
    "1x1": lambda n, h: n.node("Conv", h, n.weight(5, 12, 1, 1), name="reader"),
    "strides": lambda n, h: n.node(
        "Conv", h, n.weight(5, 12, 3, 2), n.weight(5), name="reader", strides=[2, 3], pads=[2, 0, 1, 1]
    ),
    "dilations": lambda n, h: n.node("Conv", h, n.weight(5, 12, 2, 3), name="reader", dilations=[3, 2]),
    "groups": lambda n, h: n.node("Conv", h, n.weight(6, 6, 3, 3), name="reader", group=2, pads=[1, 1, 1, 1]),
    "transposed": lambda n, h: n.node("ConvTranspose", h, n.weight(12, 4, 3, 3), name="reader", strides=[2, 2]),
    "transposed with bias": lambda n, h: n.node(
        "ConvTranspose", h, n.weight(12, 4, 2, 2), n.weight(4), name="reader", strides=[2, 2]
    ),
    "matmul": lambda n, h: n.node(
        "MatMul", n.node("Transpose", h, perm=[0, 2, 3, 1]), n.weight(12, 5), name="reader"
    ),
    "matmul, weights first": lambda n, h: n.node(
        "MatMul", n.weight(5, 12), n.node("Transpose", h, perm=[0, 2, 1, 3]), name="reader"
    ),
    "matmul and add": lambda n, h: n.node(
        "Add",
        n.node("MatMul", n.node("Transpose", h, perm=[0, 2, 3, 1]), n.weight(12, 5), name="reader"),
        n.weight(5, name="shift"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONSUMERS)
@pytest.mark.parametrize("rounds", [1, None])
def test_redundant_channels_are_made_up_for(kind: str, rounds: int | None) -> None:
    graph = after_pixels(CONSUMERS[kind])
    plan, pruned = prune(graph, names=["maker"])
    data = feeds(2, 3, 9, 8)
    before, version = graphopt.export_onnx(pruned).SerializeToString(), graph.version
    fixed, report = reconstruct(plan, pruned, data, runner, rounds=rounds, ridges=(1e-9,))
    verify(fixed)
    fresh = feeds(2, 3, 9, 8, count=9)[-1]
    assert error(graph, pruned, fresh) > 0.05
    assert error(graph, fixed, fresh) < 1e-6
    assert set(changed(report)) == {"reader"}
    assert report.sqnr_after > 60 > report.sqnr_before
    assert graphopt.export_onnx(pruned).SerializeToString() == before
    assert graph.version == version
    assert [n.name for n in fixed.nodes] == [n.name for n in pruned.nodes]
    assert [n.inputs[1].name for n in fixed.nodes if n.op == "Conv"] == [  # type: ignore[union-attr]
        n.inputs[1].name for n in graph.nodes if n.op == "Conv"  # type: ignore[union-attr]
    ]  # fmt: skip


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, "vector", "row", "scalar"])
@pytest.mark.parametrize("beta", [1.0, 0.0, -2.0])
def test_gemm_with_every_bias(trans_b: int, bias: str | None, beta: float) -> None:
    net = Net(8, 4)
    constant = net.editor.constant(np.full(10, 3, np.float32), "ones")
    hidden = net.node("Gemm", net.x, net.weight(4, 10), constant, name="maker")
    shape = {"vector": (6,), "row": (1, 6), "scalar": ()}
    c = None if bias is None else net.weight(*shape[bias])
    w = net.weight(6, 10) if trans_b else net.weight(10, 6)
    graph = net.done(net.node("Gemm", hidden, w, c, name="reader", transB=trans_b, alpha=0.5, beta=beta))
    plan, pruned = prune(graph, names=["maker"])
    fixed, report = reconstruct(plan, pruned, feeds(8, 4), runner, ridges=(1e-9,))
    verify(fixed)
    assert set(changed(report)) == {"reader"}
    assert error(graph, fixed, feeds(8, 4, count=9)[-1]) < 1e-6


def test_matmul_without_a_bias_stays_without() -> None:
    net = Net(8, 4)
    hidden = net.node("Gemm", net.x, net.weight(4, 10), net.weight(10), name="maker")
    graph = net.done(net.node("MatMul", hidden, net.weight(10, 6), name="reader"))
    plan, pruned = prune(graph)
    fixed, report = reconstruct(plan, pruned, feeds(8, 4), runner, ridges=(1e-9,))
    assert [n.op for n in fixed.nodes] == ["Gemm", "MatMul"]
    assert set(changed(report)) == {"reader"}
    assert error(graph, fixed, feeds(8, 4, count=9)[-1]) < 1e-6  # 5 columns, 4 of data and the constant


# -- least squares ----------------------------------------------------------------------------------------------------
def conv_relu_conv() -> Graph:
    net = Net(2, 3, 9, 8)
    hidden = net.node("Relu", net.node("Conv", net.x, net.weight(12, 3, 3, 3), net.weight(12), name="maker"))
    return net.done(net.node("Conv", hidden, net.weight(5, 12, 3, 3), name="reader", pads=[1, 0, 1, 2]))


def test_weights_are_those_of_least_squares_on_patches() -> None:
    graph = conv_relu_conv()
    plan, pruned = prune(graph)
    data = feeds(2, 3, 9, 8)
    fixed, report = reconstruct(plan, pruned, data, runner, rounds=1, ridges=(1e-12,))
    hidden, out = graph.nodes[1].out.name, graph.nodes[2].out.name
    rows, results = [], []
    for feed in data:
        values = runner(graph, [hidden, out], feed)
        padded = np.pad(values[hidden][:, :6].astype(np.float64), [(0, 0), (0, 0), (1, 1), (0, 2)])
        for i in range(values[out].shape[2]):
            for j in range(values[out].shape[3]):
                rows.append(padded[:, :, i : i + 3, j : j + 3].reshape(2, -1))
                results.append(values[out][:, :, i, j])
    x = np.concatenate(rows)
    want = np.linalg.lstsq(np.c_[x, np.ones(len(x))], np.concatenate(results).astype(np.float64), rcond=None)[0]
    reader = fixed.nodes[2]
    weight, bias = reader.inputs[1:3]
    assert weight is not None
    assert bias is not None
    assert weight.data is not None
    assert bias.data is not None
    np.testing.assert_allclose(weight.data.reshape(5, -1), want[:-1].T, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    np.testing.assert_allclose(bias.data, want[-1], rtol=1e-3, atol=1e-4 * np.abs(want).max())
    (layer,) = report.layers
    assert layer.after < layer.before
    assert error(graph, fixed, data[-1]) < error(graph, pruned, data[-1])


def test_little_memory_takes_more_passes_and_gives_the_same() -> None:
    graph = deep()
    plan, pruned = prune(graph)
    data = feeds(2, 3, 9, 8)
    whole, _ = reconstruct(plan, pruned, data, runner, rounds=1)
    parts, _ = reconstruct(plan, pruned, data, runner, rounds=1, max_memory=1)
    for a, b in zip(whole.constants(), parts.constants()):
        np.testing.assert_array_equal(a.data, b.data)


def deep() -> Graph:
    net = Net(2, 3, 9, 8)
    value = net.x
    for index, (ins, outs) in enumerate([(3, 10), (10, 12), (12, 12), (12, 8)]):
        weight = net.weight(outs, ins, 3, 3, name=f"w{index}")
        np.multiply(weight.data, 0.2, out=weight.data)  # type: ignore[arg-type]
        value = net.node("Relu", net.node("Conv", value, weight, net.weight(outs), name=f"c{index}", pads=[1] * 4))
    return net.done(net.node("Conv", value, net.weight(4, 8, 1, 1), name="last"))


def test_rounds_make_up_for_earlier_errors() -> None:
    graph = deep()
    plan, pruned = prune(graph, 0.4)
    data, fresh = feeds(2, 3, 9, 8, count=16), feeds(2, 3, 9, 8, count=17)[-1]
    once, first = reconstruct(plan, pruned, data, runner, rounds=1)
    often, second = reconstruct(plan, pruned, data, runner)
    assert (first.rounds, second.rounds) == (1, 4)
    assert [layer.own_inputs for layer in first.layers] == [True, False, False, False]
    assert all(layer.own_inputs for layer in second.layers)
    errors = [error(graph, g, fresh) for g in (pruned, once, often)]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def test_layers_sharing_weights_are_fitted_together() -> None:
    net = Net(2, 3, 9, 8)
    hidden = net.node("Conv", net.x, net.weight(12, 3, 1, 1), name="maker")
    shared, bias = net.weight(5, 12, 3, 3), net.weight(5)
    a = net.node("Conv", hidden, shared, bias, name="a")
    b = net.node("Conv", net.node("Sigmoid", hidden), shared, bias, name="b")
    graph = net.done(a, b)
    plan, pruned = prune(graph)
    data, fresh = feeds(2, 3, 9, 8), feeds(2, 3, 9, 8, count=9)[-1]
    fixed, report = reconstruct(plan, pruned, data, runner)
    verify(fixed)
    assert set(changed(report)) == {"a+b"}
    assert len({n.inputs[1] for n in fixed.nodes if n.name in "ab"}) == 1
    assert error(graph, fixed, fresh) < 0.5 * error(graph, pruned, fresh)


# -- what stays -------------------------------------------------------------------------------------------------------
def test_weights_used_elsewhere_stay() -> None:
    net = Net(2, 12)
    hidden = net.node("Relu", net.node("MatMul", net.x, net.weight(12, 10), name="maker"))
    middle = net.node("MatMul", hidden, net.weight(10, 10), name="middle")
    weight = net.weight(10, 6)
    out = net.node("MatMul", middle, weight, name="reader")
    graph = net.done(out, net.node("ReduceSum", weight, keepdims=1))
    plan, pruned = prune(graph, names=["maker"])
    fixed, report = reconstruct(plan, pruned, feeds(2, 12, count=40), runner)
    assert [(layer.name, layer.changed) for layer in report.layers] == [("middle", True), ("reader", False)]
    assert "used elsewhere" in report.layers[1].remark
    np.testing.assert_array_equal(fixed.nodes[3].inputs[1].data, weight.data)  # type: ignore[union-attr]


def test_long_rows_are_only_scaled() -> None:
    """All channels are multiples of one, so a factor and an offset for each result make up for those that went."""
    net = Net(2, 1, 9, 8)
    hidden = net.node("Conv", net.x, net.weight(12, 1, 1, 1), net.weight(12), name="maker")
    graph = net.done(net.node("Conv", hidden, net.weight(6, 6, 1, 1), name="reader", group=2))
    plan, pruned = prune(graph)
    data = feeds(2, 1, 9, 8)
    fixed, report = reconstruct(plan, pruned, data, runner, max_columns=1, ridges=(1e-9,))
    assert set(changed(report)) == {"reader"}
    assert error(graph, pruned, data[0]) > 0.05
    assert error(graph, fixed, feeds(2, 1, 9, 8, count=9)[-1]) < 1e-6
    before, after = (g.nodes[1].inputs[1].data.reshape(6, -1) for g in (pruned, fixed))  # type: ignore[union-attr]
    factors = after / before
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-4)


def test_long_rows_in_later_rounds_stay() -> None:
    plan, pruned = prune(deep())
    fixed, report = reconstruct(plan, pruned, feeds(2, 3, 9, 8), runner, max_columns=1, rounds=1)
    remarks = {layer.name: layer.remark for layer in report.layers}
    assert remarks["c1"] == ""
    assert all("longer than 1" in remarks[name] for name in ("c2", "c3", "last"))
    verify(fixed)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tiny_data_does_no_harm(count: int) -> None:
    graph = deep()
    plan, pruned = prune(graph)
    data = feeds(2, 3, 9, 8, count=count)
    fixed, report = reconstruct(plan, pruned, data, runner)
    assert report.sqnr_after >= report.sqnr_before
    assert error(graph, fixed, data[-1]) <= error(graph, pruned, data[-1])
    again, _ = reconstruct(plan, pruned, data, runner)
    for a, b in zip(fixed.constants(), again.constants()):
        np.testing.assert_array_equal(a.data, b.data)


def test_a_fit_that_fails_on_held_out_data_is_not_taken() -> None:
    """What is held out is unlike the rest: constant inputs tell nothing about it."""
    graph = conv_relu_conv()
    plan, pruned = prune(graph, 0.1)
    rng = np.random.default_rng(0)
    data = [{"x": np.full((2, 3, 9, 8), -7, np.float32)} for _ in range(3)]
    data.append({"x": rng.standard_normal((2, 3, 9, 8)).astype(np.float32)})
    fixed, report = reconstruct(plan, pruned, data, runner, ridges=(1e-9,))
    assert error(graph, fixed, data[-1]) <= error(graph, pruned, data[-1])
    for layer in report.layers:
        assert layer.after <= layer.before


def test_constant_data() -> None:
    graph = deep()
    plan, pruned = prune(graph)
    data = [{"x": np.zeros((2, 3, 9, 8), np.float32)}] * 4
    fixed, _ = reconstruct(plan, pruned, data, runner)
    assert all(np.isfinite(v.data).all() for v in fixed.constants() if v.data is not None)


def test_nothing_removed() -> None:
    graph = deep()
    plan = PrunePlan(find_groups(graph), {})
    fixed, report = reconstruct(plan, apply_plan(plan), feeds(2, 3, 9, 8), runner)
    assert (report.layers, report.rounds) == ([], 0)
    assert report.sqnr_before == report.sqnr_after == np.inf
    assert len(fixed.nodes) == len(graph.nodes)


def test_bad_requests() -> None:
    plan, pruned = prune(deep())
    with pytest.raises(UserError, match="no calibration samples"):
        reconstruct(plan, pruned, [], runner)
    with pytest.raises(UserError, match="at least 1"):
        reconstruct(plan, pruned, feeds(2, 3, 9, 8), runner, rounds=0)
    bad = feeds(2, 3, 9, 8)
    bad[0]["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        reconstruct(plan, pruned, bad, runner)


# -- a trained network ------------------------------------------------------------------------------------------------
def test_digits_are_recognised_again() -> None:
    model = zoo.get("digits")
    data = np.load(model.path().with_name("digits_test.npz"))
    images, labels = data["images"].astype(np.float32), data["labels"]
    graph = graphopt.import_onnx(model.path())
    plan, pruned = prune(graph, 0.3)

    def accuracy(graph: Graph) -> float:
        logits = runner(graph, ["logits"], {"image": images[150:]})["logits"]
        return float((logits.argmax(1) == labels[150:]).mean())

    calibration = load_calibration({"image": images[:150]}, signature_of(graph), batch=25)
    fixed, report = reconstruct(plan, pruned, calibration, runner)
    whole, cut, repaired = map(accuracy, (graph, pruned, fixed))
    assert cut < whole - 0.1
    assert repaired > whole - 0.2 * (whole - cut)
    assert report.sqnr_after > report.sqnr_before + 6

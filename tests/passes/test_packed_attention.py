"""Attention that reads heads where products put them: each spelling gives what the model says, without a copy where it can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.driver.compiling import prepare
from graphopt.passes.recognise.strided_view import views

HEADS, SIZE = 3, 8
WIDTH = HEADS * SIZE


class Net:
    """Attention over ``x`` [batch, length, WIDTH], with operands spelt in different ways."""

    def __init__(self, batch: int | str, length: int | str) -> None:
        self.rng = np.random.default_rng(3)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = {"x": [batch, length, WIDTH]}
        self.outputs = ["y"]

    def add(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attrs))
        return names[0] if outputs == 1 else names

    def const(self, array: Any, dtype: Any = np.int64) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def linear(self, x: str, width: int) -> str:
        product = self.add("MatMul", x, self.const(self.rng.standard_normal((WIDTH, width)) * 0.4, np.float32))
        return str(self.add("Add", product, self.const(self.rng.standard_normal(width), np.float32)))

    def heads(self, x: str) -> str:
        split = self.add("Reshape", x, self.const([0, 0, HEADS, SIZE]))
        return str(self.add("Transpose", split, perm=[0, 2, 1, 3]))

    def attend(self, q: str, k: str, v: str, mask: str | None = None, guarded: bool = False) -> None:
        """Of operands [batch, heads, length, size], the result joined again."""
        scores = self.add("MatMul", q, self.add("Transpose", k, perm=[0, 1, 3, 2]))
        if mask is not None:
            scores = self.add("Add", scores, mask)
        weights = self.add("Softmax", scores, axis=-1)
        if guarded:
            weights = self.add("Where", self.add("IsNaN", weights), self.const([0.0], np.float32), weights)
        joined = self.add("Transpose", self.add("MatMul", weights, v), perm=[0, 2, 1, 3])
        self.nodes.append(helper.make_node("Reshape", [joined, self.const([0, 0, WIDTH])], ["y"]))

    @property
    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self.outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def separate(net: Net) -> None:
    """Three products, as in BERT."""
    q, k, v = (net.heads(net.linear("x", WIDTH)) for _ in range(3))
    net.attend(net.add("Mul", q, net.const(0.3, np.float32)), k, v)


def one_product(net: Net) -> None:
    """One product whose columns are queries, keys and values, as in ViT: five axes, the first of which is cut."""
    all_ = net.add("Reshape", net.linear("x", 3 * WIDTH), net.const([0, 0, 3, HEADS, SIZE]))
    turned = net.add("Transpose", all_, perm=[2, 0, 3, 1, 4])
    q, k, v = (
        net.add("Squeeze", net.add("Slice", turned, net.const([i]), net.const([i + 1]), net.const([0])), net.const([0]))
        for i in range(3)
    )
    half = net.const(0.5, np.float32)
    net.attend(net.add("Mul", q, half), net.add("Mul", k, half), v)


def split_columns(net: Net) -> None:
    """The same cut by a Split, as in GPT."""
    parts = net.add("Split", net.linear("x", 3 * WIDTH), net.const([WIDTH] * 3), outputs=3, axis=2)
    net.attend(*(net.heads(p) for p in parts))


def gathered(net: Net) -> None:
    """The same cut by Gather."""
    all_ = net.add("Reshape", net.linear("x", 3 * WIDTH), net.const([0, 0, 3, HEADS, SIZE]))
    turned = net.add("Transpose", all_, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.add("Gather", turned, net.const(i - 3), axis=0) for i in range(3))
    net.attend(q, k, v)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(
            make, shape, id=f"{make.__name__}-{name}",
            marks=pytest.mark.slow if name == "length" and make is not separate else (),
        )
        for make in (separate, one_product, split_columns, gathered)
        for name, shape in (("dynamic", ("b", "s")), ("static", (2, 5)), ("length", (1, "s")))
    ],
)  # fmt: skip
@pytest.mark.few(4)
def test_no_copy_is_left(make: Any, shape: tuple[int | str, int | str]) -> None:
    net = Net(*shape)
    make(net)
    graph = prepare(net.model, None, 2, None, (), False)
    ops = [node.op for node in graph.nodes]
    assert ops.count("Attention") == 1
    assert not {"Transpose", "Slice", "Split", "Gather", "Mul"} & set(ops)
    compiled, reference = graphopt.compile(net.model, threads=2), ReferenceEvaluator(net.model)
    for batch, length in ((2, 5), (1, 1), (3, 17)):
        if any(isinstance(d, int) and d != size for d, size in zip(shape, (batch, length))):
            continue
        feed = {"x": np.random.default_rng(batch).standard_normal((batch, length, WIDTH)).astype(np.float32)}
        np.testing.assert_allclose(compiled.run(feed)["y"], reference.run(None, feed)[0], rtol=1e-4, atol=1e-5)


def test_masks_that_are_broadcast_over_queries_and_guards() -> None:
    net = Net("b", "s")
    net.inputs["mask"] = ["b", 1, 1, "s"]
    q, k, v = (net.heads(net.linear("x", WIDTH)) for _ in range(3))
    net.attend(q, k, v, "mask", guarded=True)
    assert "Softmax" not in [n.op for n in prepare(net.model, None, 2, None, (), False).nodes]
    rng = np.random.default_rng(5)
    mask = np.where(rng.random((2, 1, 1, 7)) < 0.5, 0, -np.inf).astype(np.float32)
    mask[1] = -np.inf  # no key counts
    feed = {"x": rng.standard_normal((2, 7, WIDTH)).astype(np.float32), "mask": mask}
    with np.errstate(invalid="ignore"):
        expected = ReferenceEvaluator(net.model).run(None, feed)[0]
    assert not np.isnan(expected).any()
    np.testing.assert_allclose(graphopt.compile(net.model).run(feed)["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("past", ["p", 3])
def test_keys_of_a_cache_are_read_once_for_all_heads_of_a_group(past: int | str) -> None:
    """As exporters write grouped heads: joined with the past, repeated, flattened, turned, scaled."""
    net = Net(2, 4)
    net.inputs |= {"past_k": [2, 1, past, SIZE], "past_v": [2, 1, past, SIZE]}
    q = net.heads(net.linear("x", WIDTH))
    net.outputs += ["k_after", "v_after"]
    repeated = {}
    for name in ("k", "v"):
        one = net.add(
            "Transpose", net.add("Reshape", net.linear("x", SIZE), net.const([0, 0, 1, SIZE])), perm=[0, 2, 1, 3]
        )
        net.nodes.append(helper.make_node("Concat", [f"past_{name}", one], [f"{name}_after"], axis=2))
        wide = net.add("Expand", net.add("Unsqueeze", f"{name}_after", net.const([2])), net.const([1, 1, HEADS, 1, 1]))
        repeated[name] = net.add("Reshape", wide, net.const([2, HEADS, -1, SIZE]))
    root = net.const(0.6, np.float32)
    flat = net.add("Reshape", repeated["k"], net.const([2 * HEADS, -1, SIZE]))
    turned = net.add("Reshape", net.add("Transpose", flat, perm=[0, 2, 1]), net.const([2, HEADS, SIZE, -1]))
    scores = net.add("MatMul", net.add("Mul", q, root), net.add("Mul", turned, root))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), repeated["v"])
    net.nodes.append(
        helper.make_node("Reshape", [net.add("Transpose", mixed, perm=[0, 2, 1, 3]), net.const([0, 0, WIDTH])], ["y"])
    )
    graph = prepare(net.model, None, 2, None, (), False)
    (attention,) = (n for n in graph.nodes if n.op == "Attention")
    assert [v.name for v in attention.inputs[1:3] if v is not None] == ["k_after", "v_after"]
    assert attention.attrs["scale"] == pytest.approx(0.36)
    feed = {
        "x": net.rng.standard_normal((2, 4, WIDTH)),
        **{f"past_{n}": net.rng.standard_normal((2, 1, 3, SIZE)) for n in "kv"},
    }
    feed = {name: array.astype(np.float32) for name, array in feed.items()}
    result = graphopt.compile(net.model).run(feed)
    for name, expected in zip(net.outputs, ReferenceEvaluator(net.model).run(None, feed)):
        np.testing.assert_allclose(result[name], expected, rtol=1e-4, atol=1e-5)


def test_keys_that_join_a_cache_within_the_node_stay_repeated() -> None:
    """The operator's own cache has a head for each repeated one, and its results are what the next run is given."""
    net = Net(2, 4)
    net.inputs = {"q": [2, HEADS, 4, SIZE], "k": [2, 1, 4, SIZE], "v": [2, 1, 4, SIZE]}
    net.inputs |= {f"past_{n}": [2, HEADS, 3, SIZE] for n in "kv"}
    repeated = []
    for name in "kv":
        wide = net.add("Expand", net.add("Unsqueeze", name, net.const([2])), net.const([1, 1, HEADS, 1, 1]))
        repeated.append(net.add("Reshape", wide, net.const([2, HEADS, 4, SIZE])))
    scaled = net.add("Mul", "q", net.const(0.5, np.float32))
    net.outputs = ["y", "k_after", "v_after"]
    net.nodes.append(helper.make_node("Attention", [scaled, *repeated, "", "past_k", "past_v"], net.outputs))
    model = net.model
    model.opset_import[0].version = 23
    feed = {n: net.rng.standard_normal(s).astype(np.float32) for n, s in net.inputs.items()}
    result = graphopt.compile(model).run(feed)
    for name, expected in zip(net.outputs, ReferenceEvaluator(model).run(None, feed)):
        np.testing.assert_allclose(result[name], expected, rtol=1e-4, atol=1e-5)


def test_columns_that_others_read_stay_in_one_product() -> None:
    net = Net(2, 5)
    split_columns(net)
    biased = next(n for n in net.nodes if n.op_type == "Split").input[0]
    net.nodes.append(helper.make_node("Relu", [biased], ["z"]))
    net.outputs.append("z")
    graph = prepare(net.model, None, 2, None, (), False)
    assert [n.op for n in graph.nodes].count("MatMul") == 1
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, WIDTH)).astype(np.float32)}
    expected = ReferenceEvaluator(net.model).run(None, feed)
    result = graphopt.compile(net.model).run(feed)
    np.testing.assert_allclose(result["y"], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result["z"], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_views_are_where_they_say(seed: int) -> None:
    """Random chains of reshapes, transpositions, slices, splits, gathers and factors, held against numpy's own arrays."""
    rng = np.random.default_rng(seed)
    net = Net(1, 1)
    shape = [int(d) for d in rng.integers(1, 5, 3)]
    net.inputs = {"x": list(shape)}
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    at, value = "x", x
    for _ in range(5):
        kind = rng.integers(5)
        if kind == 0:
            perm = [int(p) for p in rng.permutation(value.ndim)]
            at, value = net.add("Transpose", at, perm=perm), value.transpose(perm)
        elif kind == 1:
            flat = list(value.shape)
            merged = int(rng.integers(len(flat)))
            d = flat.pop(merged)
            parts = [d // 2, 2] if d % 2 == 0 else [1, d]
            flat[merged:merged] = parts
            if len(flat) > 4:
                flat = [flat[0] * flat[1], *flat[2:]]
            at, value = net.add("Reshape", at, net.const(flat)), value.reshape(flat)
        elif kind == 2:
            axis = int(rng.integers(value.ndim))
            first = int(rng.integers(value.shape[axis]))
            at = net.add("Slice", at, net.const([first]), net.const([99]), net.const([axis]))
            value = np.take(value, range(first, value.shape[axis]), axis)
        elif kind == 3:
            at, value = net.add("Mul", net.const(2.0, np.float32), at), value * np.float32(2)
        elif value.ndim > 1:
            axis = int(rng.integers(value.ndim))
            index = int(rng.integers(value.shape[axis]))
            at, value = net.add("Gather", at, net.const(index), axis=axis), np.take(value, index, axis)
    net.nodes.append(helper.make_node("Identity", [at], ["y"]))
    graph = graphopt.import_onnx(net.model)
    output = graph.outputs[0]
    seen = list(views(output))
    for view in seen:
        if view.source.producer is not None:
            continue
        index = np.full(value.shape, int(str(view.offset)))
        for axis, stride in enumerate(view.strides):
            steps = np.arange(value.shape[axis]).reshape([-1 if a == axis else 1 for a in range(value.ndim)])
            index = index + steps * int(str(stride))
        np.testing.assert_array_equal(x.reshape(-1)[index] * np.float32(view.factor), value)
    assert seen

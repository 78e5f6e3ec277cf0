"""Names, subgraphs, functions and refusals of what is brought to plain operators at import."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.errors import ModelError, UnsupportedOpError
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ops.contrib.table import known_operators
from tests.ops.contrib.one_node import Array, both, model_of
from tests.support.ort import run_ort

X = np.random.default_rng(0).integers(0, 256, (3, 7)).astype(np.uint8)
PARAMETERS = {"s": np.float32(0.05), "z": np.uint8(117), "t": np.float32(0.09), "u": np.uint8(90)}


def add(first: str, second: str, out: str, **attributes: Any) -> onnx.NodeProto:
    """QLinearAdd of two values in steps of ``s``, to steps of ``t``."""
    operands = [first, "s", "z", second, "s", "z", "t", "u"]
    return helper.make_node("QLinearAdd", operands, [out], domain="com.microsoft", **attributes)


def model(nodes: list[onnx.NodeProto], outputs: dict[str, int], **more: Any) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, X.shape)]
    results = [helper.make_tensor_value_info(name, code, None) for name, code in outputs.items()]
    for result in results:
        result.type.tensor_type.ClearField("shape")
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in PARAMETERS.items()]
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    graph = helper.make_graph(nodes, "g", inputs, results, constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


def test_names_stay_those_of_the_model() -> None:
    """Also where a result is an output and read, and where a new name is taken already."""
    nodes = [
        add("x", "x", "it_out", name="it"),
        helper.make_node("Relu", ["f"], ["it_scale"], name="other"),
        add("it_out", "x", "second", name="it_1"),
        add("second", "it_out", "third", name="it_2"),
    ]
    nodes.insert(1, helper.make_node("DequantizeLinear", ["it_out", "t", "u"], ["f"], name="it_dequantized"))
    outputs = {"it_out": TensorProto.UINT8, "third": TensorProto.UINT8, "it_scale": TensorProto.FLOAT}
    graph, got, want = both(model(nodes, outputs), {"x": X})
    assert [v.name for v in graph.outputs] == list(outputs)
    values = [v.name for n in graph.walk() for v in n.outputs if v is not None]
    assert "second" in values
    names = [n.name for n in graph.walk()]
    assert {n.name: n.op for n in graph.walk() if n.name in ("it", "it_1", "it_2")} == dict.fromkeys(
        ("it", "it_1", "it_2"), "Add"
    )
    for given in (names, values):
        assert len(set(given)) == len(given)
    for ours, theirs in zip(got, want):
        assert np.abs(ours.astype(float) - theirs).max() <= (1 if ours.dtype == np.uint8 else 0.1)
    assert {o for n in graph.nodes for o in n.origins} == {"it", "it_1", "it_2", "other", "it_dequantized"}


def test_branches_and_loop_bodies() -> None:
    def body(nodes: list[onnx.NodeProto], name: str, inputs: list[onnx.ValueInfoProto], outs: list[str]) -> Any:
        kinds = {"more": TensorProto.BOOL}
        results = [helper.make_tensor_value_info(o, kinds.get(o, TensorProto.UINT8), None) for o in outs]
        return helper.make_graph(nodes, name, inputs, results)

    then = body([add("x", "looped", "a")], "then", [], ["a"])
    other = body([add("x", "x", "b")], "other", [], ["b"])
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        helper.make_tensor_value_info("carried", TensorProto.UINT8, X.shape),
    ]
    step = [add("carried", "x", "next"), helper.make_node("Identity", ["going"], ["more"])]
    loop = helper.make_node("Loop", ["count", "", "x"], ["looped"], body=body(step, "step", inputs, ["more", "next"]))
    nodes = [
        helper.make_node("Constant", [], ["count"], value_int=3), loop,
        helper.make_node("Cast", ["x"], ["xf"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["xf"], ["size"], keepdims=0),
        helper.make_node("Constant", [], ["limit"], value_float=100.0),
        helper.make_node("Greater", ["size", "limit"], ["large"]),
        helper.make_node("If", ["large"], ["y"], then_branch=then, else_branch=other),
    ]  # fmt: skip
    for feed in (X, np.minimum(X, 90)):
        _, (got,), (want,) = both(model(nodes, {"y": TensorProto.UINT8}), {"x": feed})
        assert want.std() > 10
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 2  # a step may grow on its way through the loop


def test_functions() -> None:
    twice = helper.make_function(
        "own", "Twice", ["v", "s", "z", "t", "u"], ["w"], [add("v", "v", "w")],
        [helper.make_opsetid("com.microsoft", 1)],
    )  # fmt: skip
    call = helper.make_node("Twice", ["x", "s", "z", "t", "u"], ["y"], domain="own")
    made = model([call], {"y": TensorProto.UINT8}, functions=[twice])
    got = run_ort(graph_to_onnx(import_onnx(made)), {"x": X})[0]
    want = run_ort(model([add("x", "x", "y")], {"y": TensorProto.UINT8}), {"x": X})[0]
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_results_that_nobody_reads() -> None:
    graph = import_onnx(model([add("x", "x", "unused"), add("x", "x", "y")], {"y": TensorProto.UINT8}))
    assert not any(n.domain for n in graph.nodes)


GELU: dict[str, Array | None] = {"x": np.zeros((2, 3), np.float32)}


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "error", "text"),
    [
        ("Inverse", GELU, {}, UnsupportedOpError, "Inverse of domain 'com.microsoft' is unknown"),
        ("Gelu", GELU, {"approximate": "tanh"}, UnsupportedOpError, "attribute approximate"),
        ("FusedConv", {"x": np.zeros((1, 1, 4, 4), np.float32), "w": np.zeros((1, 1, 3, 3), np.float32)},
         {"activation": "Mish"}, UnsupportedOpError, "the activation 'Mish'"),
        ("QuickGelu", GELU, {"alpha": "much"}, ModelError, "attribute alpha"),
        ("FusedMatMul", {"x": np.zeros((3, 3), np.float32), "w": np.zeros((3, 3), np.float32)}, {"transA": 2}, ModelError,
         "attribute transA is 2"),
        ("BiasGelu", GELU, {}, ModelError, "operand B of BiasGelu is missing"),
        ("Gelu", {"x": GELU["x"], "b": np.zeros(3, np.float32)}, {}, ModelError, "2 operands are given"),
        ("QLinearConcat", {"s": np.float32(1), "z": np.uint8(0), "x": np.zeros((2, 2), np.uint8)}, {"axis": 0}, ModelError,
         "a tensor, a scale and a zero point"),
        ("QuantizeLinear", {"x": np.zeros((2, 3), np.float32), "s": np.ones(4, np.float32), "z": np.zeros(4, np.uint8)}, {},
         ModelError, "scale"),
        ("MultiHeadAttention", {"x": np.zeros((1, 2, 4), np.float32), "k": np.zeros((1, 3, 4), np.float32),
                                "v": np.zeros((1, 3, 4), np.float32)}, {"num_heads": 2, "unidirectional": 1},
         UnsupportedOpError, "of 2 queries and 3 keys"),
        ("QGemm", {"x": np.zeros((2, 3), np.uint8), "s": np.float32(1), "z": np.uint8(0), "w": np.zeros((3, 2), np.int8),
                   "t": np.float32(1), "u": np.int8(0), "c": None, "v": np.float32(1)}, {}, ModelError, "without a zero point"),
        ("NhwcMaxPool", {"x": np.zeros((2, 3), np.uint8)}, {"kernel_shape": [2, 2]}, ModelError, "at least one more axis"),
        ("QLinearAveragePool", {"x": np.zeros((1, 1, 3, 3), np.uint8), "s": np.float32(1), "z": np.uint8(0),
                                "t": np.float32(1), "u": np.uint8(0)}, {}, ModelError, "attribute kernel_shape is missing"),
        ("QLinearSigmoid", {"x": np.zeros(3, np.int64), "s": np.float32(1), "z": np.int64(0), "t": np.float32(1)}, {},
         ModelError, "i64"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(
    op: str, operands: dict[str, Array | None], attributes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        import_onnx(model_of(op, operands, "x", {"out": np.float32}, **attributes))
    assert isinstance(caught.value, (ModelError, UnsupportedOpError))
    assert "it" in str(caught.value.node)
    assert caught.value.hint


def test_the_table_has_what_quantized_models_carry() -> None:
    assert {"QLinearAdd", "QGemm", "DynamicQuantizeLSTM", "QuantizeLinear", "FusedMatMul"} <= set(known_operators())


def test_the_guide_lists_every_operator() -> None:
    text = (Path(__file__).parents[3] / "docs/guides/quantized-models.md").read_text()
    listed = text.split("<!-- operators -->")[1].split("<!-- /operators -->")[0]
    assert re.findall(r"`(\w+)`", listed) == known_operators()

"""Files for one runtime: its rules are checked by the structure, and by what the runtime itself makes of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.errors import UserError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.passes.quant.ranges import Range
from tests.support.onnx_graphs import graph_of, ops, rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db
from tests.support.quantizing import exact_ranges

CONV = "Conv<pads=[1,1,1,1]>"
FEEDS = {"x": rand(1, 4, 8, 8)}
BODY = f"""
    a = {CONV}(x, u, e)
    r = Relu(a)
    b = {CONV}(r, v, e)
    s = Add(b, r)
    t = Relu(s)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t)
    d = Conv<pads=[1,1,1,1], group=8>(m, w)
    g = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(d, p)
    k = {CONV}(t, o)
    c = Concat<axis=1>(g, k)
    f = {CONV}(c, q)
    h = Sigmoid(f)
    i = GlobalAveragePool(h)
    l = Flatten(i)
    y = MatMul(l, z)"""


def residual() -> Graph:
    graph = graph_of(
        {"x": "float[1,4,8,8]"}, BODY, "y f", u=rand(8, 4, 3, 3), v=rand(8, 8, 3, 3), e=rand(8), w=rand(8, 1, 3, 3),
        p=rand(8, 8, 2, 2), o=rand(8, 8, 3, 3), q=rand(6, 16, 3, 3), z=rand(6, 5),
    )  # fmt: skip
    for node in graph.nodes:
        node.name = node.out.name
    return graph


def quantized(runtime: str, **options: Any) -> Graph:
    """The graph for a runtime, checked as ONNX, and near to float."""
    graph = residual()
    table = graphopt.RangeTable(exact_ranges(graph, FEEDS))
    if runtime == "onnxruntime":  # what is stored for its sake needs a range too
        f = run_ort(export_onnx(graph), FEEDS)[1]
        table = graphopt.RangeTable({**table.ranges, "f": Range(float(f.min()), float(f.max()))})
    result, _ = graphopt.quantize(graph, table=table, level=0, runtime=runtime, **options)
    model = export_onnx(result)
    onnx.checker.check_model(model, full_check=True)
    for got, want in zip(run_ort(model, FEEDS), run_ort(export_onnx(graph), FEEDS)):
        assert sqnr_db(got, want) > 25
    assert [v.name for v in result.outputs] == ["y", "f"]
    return result


def pair_before(value: Value | None) -> tuple[Node, Node | None] | None:
    """The DequantizeLinear before an operand and its QuantizeLinear, which constants have none of."""
    node = None if value is None else value.producer
    if node is None or node.op != "DequantizeLinear":
        return None
    return node, node.inputs[0].producer  # type: ignore[union-attr]


def named(graph: Graph, name: str) -> Node:
    return next(node for node in graph.nodes if node.name == name)


def test_tensorrt() -> None:
    graph = quantized("tensorrt")
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = node.inputs[1], node.inputs[2]
            assert zero is not None
            assert scale is not None
            assert zero.dtype.numpy == np.int8, "signed bytes only, no int32"
            assert not zero.data.any()  # type: ignore[union-attr]
            per_channel = scale.data.ndim == 1  # type: ignore[union-attr]
            assert per_channel is node.inputs[0].is_const, "of weights only"  # type: ignore[union-attr]
        if node.op in ("Conv", "ConvTranspose", "MatMul"):
            for index in (0, 1):
                found = pair_before(node.inputs[index])
                assert found is not None, f"operand {index} of {node.name}"
            weight = pair_before(node.inputs[1])
            assert weight is not None
            assert weight[0].attrs["axis"] == (0 if node.op == "Conv" else 1)
            if node.input(2) is not None:
                assert node.inputs[2].is_const, "biases are float"  # type: ignore[union-attr]
    add = named(graph, "s")
    assert [pair_before(value) is not None for value in add.inputs] == [False, True], "one kernel with the convolution"
    assert add.inputs[0].producer is named(graph, "b")  # type: ignore[union-attr]
    assert graph.outputs[1].producer is named(graph, "f"), "outputs stay in float"


@pytest.mark.parametrize(
    ("sum_", "stored"), [("Add(a, b)", "a"), ("Add(b, a)", "a"), ("Add(r, a)", "r"), ("Add(a, a)", "a")]
)
def test_the_last_convolution_of_a_sum_is_one_kernel_with_it(sum_: str, stored: str) -> None:
    body = f"a = {CONV}(x, u)\nr = Relu(x)\nb = {CONV}(x, v)\ns = {sum_}\ny = {CONV}(s, w)\nz = {CONV}(r, u)"
    outputs = "y z" if "b" in sum_ else "y z b"
    graph = graph_of(
        {"x": "float[1,4,8,8]"}, body, outputs, u=rand(4, 4, 3, 3), v=rand(4, 4, 3, 3, seed=1), w=rand(2, 4, 3, 3)
    )
    for node in graph.nodes:
        node.name = node.out.name
    table = graphopt.RangeTable(exact_ranges(graph, FEEDS))
    result, report = graphopt.quantize(graph, table=table, level=0, runtime="tensorrt")
    assert {row.name for row in report.values} & {"a", "b", "r"} >= {stored}
    found = {value.name for value in named(result, "s").inputs if value is not None and pair_before(value) is None}
    assert found == {"Add(a, b)": {"b"}, "Add(b, a)": {"b"}, "Add(r, a)": {"r", "a"}, "Add(a, a)": set()}[sum_]


def test_onnx_runtime_computes_every_convolution_in_integers(tmp_path: Path) -> None:
    graph = quantized("onnxruntime")
    for node in graph.nodes:
        if node.op in ("Conv", "ConvTranspose"):
            assert [reader.op for reader in node.out.consumers] == ["QuantizeLinear"], node.name
    assert pair_before(graph.outputs[1]) is not None
    assert "Relu" not in ops(graph), "saturation does it"
    signed = quantized("onnxruntime", activations="s8")
    assert ops(signed).count("Relu") == 2, "its zero is in the middle"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    ort.InferenceSession(export_onnx(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = [node.op_type for node in onnx.load_model(tmp_path / "optimized.onnx").graph.node]
    assert made.count("QLinearConv") == 5
    assert "Conv" not in made
    assert "QLinearAdd" in made


def test_openvino(tmp_path: Path) -> None:
    graph = quantized("openvino")
    assert all(v.data.dtype != np.int32 for v in graph.constants() if v.data is not None)
    openvino = pytest.importorskip("openvino")
    export_onnx(graph, tmp_path / "model.onnx")
    compiled = openvino.Core().compile_model(str(tmp_path / "model.onnx"), "CPU")
    precisions = {
        op.get_friendly_name(): op.get_rt_info()["runtimePrecision"].astype(str)
        for op in compiled.get_runtime_model().get_ordered_ops()
        if op.get_rt_info()["layerType"].astype(str) == "Convolution"
    }
    assert len(precisions) == 5
    assert set(precisions.values()) <= {"u8", "i8"}, precisions
    got, want = compiled(FEEDS)[0], run_ort(export_onnx(residual()), FEEDS)[0]
    assert sqnr_db(got, want) > 12, "its kernels saturate where there is no VNNI"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "tensorr"}, "did you mean 'tensorrt'"),
        ({"runtime": "tensorrt", "activations": "u8"}, "tensorrt takes data as s8 symmetric"),
        ({"runtime": "tensorrt", "symmetric": False}, "not as s8 asymmetric"),
        ({"runtime": "tensorrt", "overrides": [{"node": "a", "type": "u16"}]}, "not as u16"),
        ({"runtime": "tensorrt", "fall_back": "16", "min_sqnr": 30}, "not as s16"),
    ],
)
def test_what_a_runtime_does_not_take_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        quantized(**options)
    assert words in f"{caught.value} {caught.value.hint}"

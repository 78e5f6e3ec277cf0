"""Dynamic quantization: standard ONNX without data, by numpy's integers and in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.errors import UserError
from tests.support.onnx_graphs import graph_of, model_of, ops, rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db


def dynamic(graph: Any, **options: Any) -> tuple[Any, Any]:
    """The quantized graph, checked as ONNX."""
    result, report = graphopt.quantize(graph, dynamic=True, **options)
    onnx.checker.check_model(export_onnx(result), full_check=True)
    return result, report


def by_integers(x: Any, w: Any) -> Any:
    """The product by the definition of DynamicQuantizeLinear, with a scale a column, in integers."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    q = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero).astype(np.int64)
    unit = (np.abs(w.astype(np.float64)).reshape(-1, w.shape[-1]).max(axis=0) / 127).astype(np.float32)
    return (q @ np.rint(w / unit).astype(np.int64)).astype(np.float64) * scale * unit


@pytest.mark.parametrize(
    ("body", "shape", "weight", "add"),
    [
        ("y = MatMul(x, w)", (3, 5, 16), (16, 7), 0.0),
        ("y = MatMul(x, w)", (3, 5, 16), (3, 16, 7), 0.0),
        ("y = Gemm(x, w, b)", (5, 16), (16, 7), 1.0),
        ("y = Gemm<transB=1, beta=0.5>(x, w, b)", (5, 16), (7, 16), 0.5),
        ("y = Gemm<alpha=2.0, beta=3.0>(x, w, v)", (5, 16), (16, 7), 0.0),
    ],
)
def test_products_are_those_of_integers(body: str, shape: Any, weight: Any, add: float) -> None:
    x, w, b = rand(*shape), rand(*weight) * np.logspace(-2, 2, weight[-1], dtype=np.float32), rand(7)
    inputs = {"x": f"float[{','.join(map(str, shape))}]"} | ({"v": "float[7]"} if "v)" in body else {})
    graph = graph_of(inputs, body, w=w, **({} if "v)" in body else {"b": b}))
    result, report = dynamic(graph, level=0)
    assert "MatMulInteger" in ops(result)
    assert report.layers[0].stored == "u8 x u8 weights (7 scales)"
    assert report.method == "dynamic"
    want = by_integers(x, w.T if "transB" in body else w) + add * b
    if "alpha" in body:
        want = 2 * want + 3 * b
    got = run_ort(export_onnx(result), {"x": x, "v": b})[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    compiled = graphopt.compile(result, threads=1, level=1).run({"x": x, "v": b} if "v)" in body else {"x": x})["y"]
    np.testing.assert_allclose(compiled, got, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_what_is_shared_is_made_once() -> None:
    body = "q = MatMul(x, w)\nk = MatMul(x, w)\nv = Gemm<transB=1>(x, w)\ns = Add(q, k)\ny = Add(s, v)"
    result, _ = dynamic(graph_of({"x": "float[4,8]"}, body, w=rand(8, 8)), level=0)
    assert ops(result).count("DynamicQuantizeLinear") == 1
    assert [v.data.dtype for v in result.constants() if v.data.size == 64] == [np.uint8] * 2


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y = MatMul(w, x)", "no constant weight on the right"),
        ("y = MatMul(x, x)", "no constant weight on the right"),
        ("y = MatMul(x, c)", "no form"),
        ("y = Gemm<transA=1>(x, w)", "no form"),
        ("y = Conv(i, k)", "convolutions"),
    ],
)
def test_what_stays_in_float(body: str, why: str) -> None:
    inputs = {"x": "float[8,8]", "i": "float[1,2,5,5]"}
    graph = graph_of(inputs, body, w=rand(8, 8), c=rand(8), k=rand(2, 2, 3, 3))
    result, report = dynamic(graph, level=0)
    assert why in report.kept[0].reason
    assert "nothing was quantized" in report.notes[0]
    assert ops(result) == ops(graph)


def test_branches_are_quantized_too() -> None:
    x, p, y = (
        helper.make_tensor_value_info(n, kind, shape)
        for n, kind, shape in (("x", 1, [2, 4]), ("p", 9, []), ("y", 1, [2, 4]))
    )
    then, other = (
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], [name], name=name)], name, [], [helper.make_tensor_value_info(name, 1, [2, 4])]
        )
        for name in ("then", "other")
    )  # fmt: skip
    node = helper.make_node("If", ["p"], ["y"], then_branch=then, else_branch=other)
    graph = helper.make_graph([node], "g", [x, p], [y], [numpy_helper.from_array(rand(4, 4), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    result, report = dynamic(model)
    assert len(report.quantized) == 2
    for state in (True, False):
        feeds = {"x": rand(2, 4), "p": np.asarray(state)}
        assert sqnr_db(run_ort(export_onnx(result), feeds)[0], run_ort(model, feeds)[0]) > 28


def test_results_are_compared_where_there_is_data() -> None:
    model = model_of(
        {"x": "float[4,32]"},
        "a = Gemm(x, w, b)\nr = Relu(a)\ny = Gemm(r, v)",
        w=rand(32, 32),
        v=rand(32, 8),
        b=rand(32),
    )
    result, report = dynamic(
        model, evaluation={"x": rand(4, 32)}, metric=lambda outputs, feeds: outputs[0]["y"].size, threads=1
    )
    got, want = (run_ort(m, {"x": rand(4, 32)})[0] for m in (export_onnx(result), model))
    assert abs(report.outputs[0].sqnr_db - sqnr_db(got, want)) < 0.2
    assert report.outputs[0].sqnr_db > 28
    assert (report.goal.before, report.goal.after) == (32, 32)
    assert report.bytes_after < 0.35 * report.bytes_before
    _, report = dynamic(model, exclude=["Gemm"])
    assert [row.why for row in report.layers] == ["asked", "asked"]


def test_equalised_before() -> None:
    graph = graph_of(
        {"x": "float[4,8]"}, "a = MatMul(x, u)\nr = Relu(a)\ny = MatMul(r, v)", u=rand(8, 8) * 64, v=rand(8, 8)
    )
    _, report = dynamic(graph, equalize=True)
    assert report.notes[0].startswith("1 pairs of layers were equalised")


@pytest.mark.parametrize(
    "options",
    [{"min_sqnr": 30}, {"correct_bias": True}, {"method": "minmax"}, {"activations": "s8"}, {"sensitivity": True}],
)
def test_what_needs_calibration_is_refused(options: dict[str, Any]) -> None:
    graph = graph_of({"x": "float[4,8]"}, "y = MatMul(x, w)", w=rand(8, 8))
    with pytest.raises(UserError, match="dynamic quantization measures ranges"):
        graphopt.quantize(graph, dynamic=True, **options)
    with pytest.raises(UserError, match="calibration data is of quantization with calibration"):
        graphopt.quantize(graph, {"x": rand(4, 8)}, dynamic=True)

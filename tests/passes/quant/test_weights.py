"""Weights and biases: an axis for every operator, biases that survive, names that stay unique."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.passes.quant.ranges import Range
from tests.support.onnx_graphs import graph_of, ops, rand
from tests.support.ort import run_ort
from tests.support.quantizing import decibels, quantized, stored


def of(graph: Any, feeds: Any, **options: Any) -> tuple[Any, Any]:
    """The quantized graph and its first product."""
    result, _ = quantized(graph, feeds, **options)
    assert decibels(graph, result, feeds) > 28
    return result, next(node for node in result.nodes if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"))


@pytest.mark.parametrize(
    ("body", "x", "w", "axis", "scales"),
    [
        ("y = Conv(x, w, b)", (1, 3, 6, 6), (8, 3, 3, 3), 0, 8),
        ("y = Conv<group=2>(x, w, b)", (1, 4, 6, 6), (8, 2, 3, 3), 0, 8),
        ("y = ConvTranspose(x, w, b)", (1, 3, 6, 6), (3, 64, 3, 3), 1, 64),
        ("y = ConvTranspose<group=2>(x, w, b)", (1, 4, 6, 6), (4, 4, 3, 3), 1, 4),
        ("y = Gemm(x, w, b)", (5, 6), (6, 8), 1, 8),
        ("y = Gemm<transB=1>(x, w, b)", (5, 6), (8, 6), 0, 8),
        ("y = Gemm<transA=1>(x, w, b)", (6, 5), (6, 8), 1, 8),
        ("y = MatMul(x, w)", (2, 5, 6), (6, 8), 1, 8),
        ("y = MatMul(x, w)", (2, 5, 6), (2, 6, 8), 2, 8),
        ("y = MatMul(w, x)", (6, 5), (8, 6), 0, 8),
        ("y = MatMul(x, w)", (5, 6), (6,), None, 1),
    ],
)  # fmt: skip
def test_the_axis_of_output_channels(body: str, x: Any, w: Any, axis: int | None, scales: int) -> None:
    channels = 64 if scales == 64 else 8
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(w).astype(np.float32)
    if axis is not None:  # channels of very different sizes, which one scale would lose
        shape = [1] * len(w)
        shape[axis] = w[axis]
        weight *= np.logspace(-3, 0, w[axis], dtype=np.float32).reshape(shape)
    graph = graph_of({"x": f"float[{','.join(map(str, x))}]"}, body, w=weight, b=rand(channels) * 1e-3)
    feeds = {"x": rand(*x)}
    result, product = of(graph, feeds)
    dequantize = stored(product, 1 if "(x, w" in body else 0)
    assert dequantize.inputs[0].data.dtype == np.int8
    assert dequantize.inputs[1].data.size == scales
    assert not dequantize.inputs[2].data.any()
    assert dequantize.attrs.get("axis") == axis
    got, want = run_ort(graphopt.export_onnx(result), feeds)[0], run_ort(graphopt.export_onnx(graph), feeds)[0]
    at = {"Conv": 1, "ConvTranspose": 1}.get(product.op, -2 if "(w, x)" in body else -1)
    if axis is not None:
        others = tuple(a for a in range(want.ndim) if a != at % want.ndim)
        noise, signal = ((got - want) ** 2).sum(others), (want**2).sum(others)
        assert (10 * np.log10(signal / noise) > 25).all(), "every channel, small ones too"
    if "b)" in body:
        bias = stored(product, 2)
        assert bias.inputs[0].data.dtype == np.int32
        assert bias.inputs[1].data.shape == (channels,)
        assert bias.attrs["axis"] == 0
    if axis is not None:
        whole, report = quantized(graph, feeds, per_channel=False)
        assert "1 scale" in report.quantized[0].stored
        assert decibels(graph, whole, feeds) < decibels(graph, result, feeds)


def test_a_bias_much_larger_than_the_products_survives() -> None:
    """A published failure: the bias in units of 0.5 * 7.843e-10 is more than int32 holds."""
    scale = 7.843e-10
    w = np.linspace(-127, 127, 2 * 9, dtype=np.float32).reshape(2, 1, 3, 3) * np.float32(scale)
    graph = graph_of(
        {"x": "float[1,1,4,4]"}, "y = Conv<pads=[1,1,1,1]>(x, w, b)", w=w, b=np.asarray([5, -4.5], np.float32)
    )
    feeds = {"x": np.linspace(0, 127.5, 16, dtype=np.float32).reshape(1, 1, 4, 4)}
    result, product = of(graph, feeds)
    assert stored(product, 0).inputs[1].data == np.float32(0.5)
    integers = stored(product, 2).inputs[0].data
    assert (np.abs(integers.astype(np.int64)) <= 1 << 30).all()
    got, want = run_ort(graphopt.export_onnx(result), feeds)[0], run_ort(graphopt.export_onnx(graph), feeds)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    _, report = quantized(graph, feeds)
    assert "2 scales of %w were raised" in report.quantized[0].reason


def test_a_bias_of_one_row_equals_a_vector() -> None:
    b = rand(8)
    results = []
    for bias in (b, b[None]):
        graph = graph_of({"x": "float[5,6]"}, "y = Gemm(x, w, b)", w=rand(6, 8), b=bias)
        result, product = of(graph, {"x": rand(5, 6)})
        assert stored(product, 2).inputs[0].data.dtype == np.int32
        results.append(run_ort(graphopt.export_onnx(result), {"x": rand(5, 6)})[0])
    np.testing.assert_array_equal(*results)


def test_units_of_biases_follow_the_channels_of_groups() -> None:
    """The weight of a grouped transposed convolution has the channels of one group on its axis, and the bias has all."""
    w = rand(4, 3, 3, 3) * np.asarray([1, 10, 100], np.float32).reshape(1, 3, 1, 1)
    b = np.asarray([1, 2, 3, 4, 1e9, 5], np.float32)
    graph = graph_of({"x": "float[1,4,5,5]"}, "y = ConvTranspose<group=2>(x, w, b)", w=w, b=b)
    result, _ = quantized(graph, {"x": rand(1, 4, 5, 5)})
    product = result.outputs[0].producer
    assert product is not None
    scales = [stored(product, i).inputs[1].data for i in range(3)]
    np.testing.assert_allclose(scales[2], scales[0] * np.tile(scales[1], 2), rtol=1e-6)
    plain = np.abs(w).max(axis=(0, 2, 3)) / 127
    np.testing.assert_allclose(scales[1][::2], plain[::2], rtol=1e-6)
    assert scales[1][1] > plain[1], "raised for the second channel of the second group"


def test_a_constant_on_the_left_has_scales_of_rows() -> None:
    w = rand(8, 6) * np.logspace(-3, 0, 8, dtype=np.float32)[:, None]
    graph = graph_of({"x": "float[6,5]"}, "y = Gemm(w, x, b)", w=w, b=rand(5))
    result, report = quantized(graph, {"x": rand(6, 5)})
    assert decibels(graph, result, {"x": rand(6, 5)}) > 28
    assert "bias stays in float" in report.quantized[0].reason


@pytest.mark.parametrize(
    ("body", "bias"),
    [("y = Gemm(x, w, b)", rand(5, 8)), ("y = Gemm(x, w, b)", rand(5, 1)), ("y = Gemm<alpha=0.5>(x, w, b)", rand(8)),
     ("y = Gemm<beta=0.5>(x, w, b)", rand(8))],
)  # fmt: skip
def test_other_biases_stay_in_float(body: str, bias: Any) -> None:
    graph = graph_of({"x": "float[5,6]"}, body, w=rand(6, 8), b=bias)
    result, report = quantized(graph, {"x": rand(5, 6)})
    assert decibels(graph, result, {"x": rand(5, 6)}) > 28
    assert "bias stays in float" in report.quantized[0].reason
    assert [v.dtype.numpy for v in result.constants()].count(np.dtype(np.int32)) == 0


def test_a_bias_of_as_many_rows_is_no_vector_of_columns() -> None:
    graph = graph_of({"x": "float[8,6]"}, "y = Gemm(x, w, b)", w=rand(6, 8), b=rand(8, 1))
    result, report = quantized(graph, {"x": rand(8, 6)})
    assert decibels(graph, result, {"x": rand(8, 6)}) > 28
    assert "bias stays in float" in report.quantized[0].reason


def test_names_stay_unique() -> None:
    """Two convolutions share a bias, and the names that come to mind are taken."""
    graph = graph_of(
        {"x": "float[1,4,8,8]"}, "b0 = Conv(x, w, b)\n"
        "b_quantized = Conv(x, v, b)\nb_scale = Add(b0, b_quantized)\ny = Relu(b_scale)",
        w=rand(4, 4, 3, 3), v=rand(4, 4, 3, 3, seed=1), b=rand(4),
    )  # fmt: skip
    feeds = {"x": rand(1, 4, 8, 8)}
    result, _ = of(graph, feeds)
    names = [v.name for node in result.nodes for v in node.outputs if v is not None] + [
        v.name for v in result.constants()
    ]
    assert len(names) == len(set(names))
    assert {"b0", "b_quantized", "b_scale"} <= set(names)
    biases = [stored(node, 2) for node in result.nodes if node.op == "Conv"]
    assert biases[0] is not biases[1], "each in the unit of its own weight"


def test_a_weight_of_two_readers_is_stored_once() -> None:
    graph = graph_of(
        {"x": "float[5,8]"}, "a = MatMul(x, w)\nb = Relu(a)\ny = Gemm(b, w, c)", w=rand(8, 8), c=rand(8) * 1e6
    )
    result, _ = of(graph, {"x": rand(5, 8)})
    products = [node for node in result.nodes if node.op in ("MatMul", "Gemm")]
    assert stored(products[0], 1) is stored(products[1], 1)
    assert [v.data.dtype for v in result.constants() if v.data.size == 64] == [np.int8]
    other = graph_of({"x": "float[5,8]"}, "a = MatMul(x, w)\ny = Gemm<transB=1>(a, w)", w=rand(8, 8))
    result, _ = of(other, {"x": rand(5, 8)})
    products = [node for node in result.nodes if node.op in ("MatMul", "Gemm")]
    assert stored(products[0], 1).attrs["axis"] != stored(products[1], 1).attrs["axis"], "two axes, two copies"


def test_channels_of_zeros_and_of_one_number() -> None:
    w = rand(6, 3, 3, 3)
    w[0] = 0
    w[1] = 0.25
    w[2] = 1e-30
    w[3] = 3e-39
    graph = graph_of({"x": "float[1,3,6,6]"}, "y = Conv(x, w, b)", w=w, b=np.asarray([0, 1, 2, 0, -1, 0], np.float32))
    result, product = of(graph, {"x": rand(1, 3, 6, 6)})
    scale = stored(product, 1).inputs[1].data
    assert (np.isfinite(scale) & (scale > 0)).all()
    got, want = (run_ort(graphopt.export_onnx(g), {"x": rand(1, 3, 6, 6)})[0] for g in (result, graph))
    assert np.abs(got - want).max() < 0.1
    zeros = graph_of(
        {"x": "float[1,3,6,6]"}, "y = Conv(x, w, b)", w=w * 0, b=np.asarray([0, 1, 2, 0, -1, 0.3], np.float32)
    )
    result, _ = quantized(zeros, {"x": rand(1, 3, 6, 6)})
    got, want = (run_ort(graphopt.export_onnx(g), {"x": rand(1, 3, 6, 6)})[0] for g in (result, zeros))
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("number", [0.0, 2.5, -1e-40])
def test_inputs_of_one_number(number: float) -> None:
    graph = graph_of({"x": "float[1,3,6,6]"}, "c = Conv(x, w)\ny = Conv(c, v)", w=rand(4, 3, 3, 3), v=rand(2, 4, 3, 3))
    feeds = {"x": np.full((1, 3, 6, 6), number, np.float32)}
    result, _ = quantized(graph, feeds)
    got, want = (run_ort(graphopt.export_onnx(g), feeds)[0] for g in (result, graph))
    np.testing.assert_allclose(got, want, atol=max(0.03 * float(np.abs(want).max()), 1e-30))


def test_weights_that_are_not_finite() -> None:
    w = rand(6, 8)
    w[2, 3] = np.inf
    graph = graph_of({"x": "float[5,6]"}, "y = MatMul(x, w)", w=w)
    with pytest.raises(graphopt.UserError, match="weight %w holds NaN or infinity"):
        graphopt.quantize(
            graph, {"x": rand(5, 6)}, level=0, compare=False, table=graphopt.RangeTable({"x": Range(-1.0, 1.0)})
        )


def test_the_file_is_about_a_quarter() -> None:
    graph = graph_of(
        {"x": "float[4,256]"},
        "a = Gemm(x, w, b)\nr = Relu(a)\ny = Gemm(r, v, b)",
        w=rand(256, 256),
        v=rand(256, 256),
        b=rand(256),
    )
    result, report = quantized(graph, {"x": rand(4, 256)})
    sizes = [len(graphopt.export_onnx(g).SerializeToString()) for g in (result, graph)]
    assert sizes[0] <= 0.3 * sizes[1]
    assert report.bytes_after <= 0.3 * report.bytes_before
    assert ops(result).count("DequantizeLinear") == 6

"""Convolutions and pools of rank 3 as images of one row: same numbers, no views between convolutions that meet."""

from __future__ import annotations

import pytest

from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, rand

X = {"x": "float[2,4,19]"}


@pytest.mark.parametrize(
    ("attrs", "shape"),
    [
        ("", (6, 4, 3)),
        ("<pads=[2,1], strides=[2]>", (6, 4, 4)),
        ("<dilations=[3], kernel_shape=[3]>", (6, 4, 3)),
        ("<group=2>", (6, 2, 3)),
        ('<auto_pad="SAME_UPPER", strides=[2]>', (6, 4, 5)),
        ('<auto_pad="SAME_LOWER">', (6, 4, 4)),
    ],
)
@pytest.mark.parametrize("bias", ["", ", b"])
def test_becomes_a_row(attrs: str, shape: tuple[int, ...], bias: str) -> None:
    g = graph_of(X, f"y = Conv{attrs}(x, w{bias})", w=rand(*shape), b=rand(6))
    assert_fires(g, "lower-conv1d", ["Unsqueeze", "Conv", "Squeeze"])


def test_chains_stay_rows() -> None:
    text = "a = Conv(x, w)\nb = Relu(a)\nc = Sigmoid(b)\nd = Conv<pads=[1,1]>(c, v)\ny = Tanh(d)"
    g = graph_of(X, text, w=rand(6, 4, 3), v=rand(5, 6, 3))
    assert_fires(g, "lower-conv1d", ["Unsqueeze", "Conv", "Relu", "Sigmoid", "Conv", "Tanh", "Squeeze"])


def test_a_value_between_with_another_reader_is_squeezed_for_it() -> None:
    text = "a = Conv(x, w)\nb = Relu(a)\nd = Conv(b, v)\ne = ReduceSum<keepdims=0>(b)\ny = Add(d, e)"
    g = graph_of(X, text, w=rand(6, 4, 3), v=rand(5, 6, 3))
    assert_fires(g, "lower-conv1d", ["Unsqueeze", "Conv", "Relu", "Squeeze", "Conv", "Squeeze", "ReduceSum", "Add"])


def test_symbolic_length() -> None:
    g = graph_of({"x": "float[N,4,L]"}, "y = Conv<pads=[1,1]>(x, w)", w=rand(6, 4, 3))
    assert_fires(g, "lower-conv1d", ["Unsqueeze", "Conv", "Squeeze"])


def test_other_ranks_are_left_alone() -> None:
    g = graph_of({"x": "float[1,4,7,7]"}, "y = Conv(x, w)", w=rand(6, 4, 3, 3))
    assert_refuses(g, "lower-conv1d", "rank 3")


@pytest.mark.parametrize(
    ("attrs", "shape"),
    [
        ("", (4, 6, 3)),
        ("<strides=[4], pads=[2,2]>", (4, 6, 8)),
        ("<strides=[2], output_padding=[1], pads=[1,0]>", (4, 6, 4)),
        ("<strides=[2], output_shape=[39]>", (4, 6, 4)),
        ('<auto_pad="SAME_UPPER", strides=[3]>', (4, 6, 4)),
        ("<dilations=[2], group=2>", (4, 3, 3)),
        ("<strides=[5]>", (4, 6, 3)),
    ],
)
@pytest.mark.parametrize("bias", ["", ", b"])
def test_transposed_becomes_a_row(attrs: str, shape: tuple[int, ...], bias: str) -> None:
    g = graph_of(X, f"y = ConvTranspose{attrs}(x, w{bias})", w=rand(*shape), b=rand(6))
    assert_fires(g, "lower-conv1d", ["Unsqueeze", "ConvTranspose", "Squeeze"])


@pytest.mark.parametrize(
    "pool",
    [
        "MaxPool<kernel_shape=[3], strides=[2], pads=[1,0], ceil_mode=1>",
        "MaxPool<kernel_shape=[2], dilations=[3]>",
        "AveragePool<kernel_shape=[2], strides=[2]>",
        "AveragePool<kernel_shape=[5], pads=[2,2], count_include_pad=1>",
        'AveragePool<kernel_shape=[4], auto_pad="SAME_LOWER">',
    ],
)
def test_pool_becomes_a_row(pool: str) -> None:
    assert_fires(graph_of(X, f"y = {pool}(x)"), "lower-conv1d", ["Unsqueeze", pool.split("<")[0], "Squeeze"])


def test_places_of_maxima_are_left_alone() -> None:
    assert_refuses(graph_of(X, "m, y = MaxPool<kernel_shape=[2]>(x)"), "lower-conv1d", "output")


def test_a_decoder_stays_rows() -> None:
    text = "a = AveragePool<kernel_shape=[2], strides=[2]>(x)\nb = ConvTranspose<strides=[2]>(a, w)\nc = Elu(b)\ny = Conv(c, v)"
    g = graph_of(X, text, w=rand(4, 6, 4), v=rand(5, 6, 3))
    assert_fires(g, "lower-conv1d", ["Unsqueeze", "AveragePool", "ConvTranspose", "Elu", "Conv", "Squeeze"])

"""Convolutions of rank 3 as images of one row: same numbers, no views between convolutions that meet."""

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

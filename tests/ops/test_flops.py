"""Operations are what a count over the definition of the operator says."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from graphopt.ir.graph import Graph
from graphopt.ops.flops import group_flops, node_flops
from tests.support.onnx_graphs import graph_of


def flops(graph: Graph) -> int | None:
    return group_flops(graph.nodes)


def w(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones(shape, np.float32)


def conv_multiply_adds(out: tuple[int, ...], channels: int, kernel: tuple[int, ...]) -> int:
    """One for every output element, input channel of its group and tap."""
    return sum(1 for _ in itertools.product(*(range(d) for d in (*out, channels, *kernel))))


@pytest.mark.parametrize(
    ("data", "weight", "attributes", "out", "channels"),
    [
        ("float[1,4,7,6]", (6, 4, 3, 3), "pads = [1, 1, 1, 1]", (1, 6, 7, 6), 4),
        ("float[2,4,7,7]", (6, 2, 3, 3), "group = 2, strides = [2, 2]", (2, 6, 3, 3), 2),
        ("float[1,8,5,5]", (8, 1, 3, 3), "group = 8, pads = [1, 1, 1, 1]", (1, 8, 5, 5), 1),
        ("float[1,3,9]", (5, 3, 4), "", (1, 5, 6), 3),
    ],
)
def test_convolutions(data: str, weight: tuple[int, ...], attributes: str, out: tuple[int, ...], channels: int) -> None:
    graph = graph_of({"x": data}, f"y = Conv<{attributes}>(x, w)" if attributes else "y = Conv(x, w)", w=w(*weight))
    assert flops(graph) == 2 * conv_multiply_adds(out, channels, weight[2:])


def test_a_bias_is_one_addition_an_element() -> None:
    graph = graph_of({"x": "float[1,4,5,5]"}, "y = Conv(x, w, b)", w=w(6, 4, 1, 1), b=w(6))
    assert flops(graph) == 2 * 6 * 25 * 4 + 6 * 25


def test_a_transposed_convolution_scatters_every_input() -> None:
    graph = graph_of({"x": "float[1,4,5,5]"}, "y = ConvTranspose<strides = [2, 2]>(x, w)", w=w(4, 3, 2, 2))
    assert flops(graph) == 2 * (4 * 5 * 5) * (3 * 2 * 2)


@pytest.mark.parametrize(
    ("inputs", "body", "expected"),
    [
        ({"a": "float[3,4]", "b": "float[4,5]"}, "y = MatMul(a, b)", 2 * 3 * 5 * 4),
        ({"a": "float[2,3,4]", "b": "float[4,5]"}, "y = MatMul(a, b)", 2 * 2 * 3 * 5 * 4),
        ({"a": "float[4]", "b": "float[4,5]"}, "y = MatMul(a, b)", 2 * 5 * 4),
        ({"a": "float[4,3]", "b": "float[4,5]"}, "y = Gemm<transA = 1>(a, b)", 2 * 3 * 5 * 4),
        ({"a": "float[3,4]", "b": "float[5,4]"}, "y = Gemm<transB = 1>(a, b)", 2 * 3 * 5 * 4),
        ({"a": "float[2,3,4]", "b": "float[2,4,5]"}, 'y = Einsum<equation = "bij,bjk->bik">(a, b)', 2 * 2 * 3 * 4 * 5),
        ({"a": "float[2,3,4]", "b": "float[4,5]"}, 'y = Einsum<equation = "...j, jk -> ...k">(a, b)', 2 * 6 * 4 * 5),
        ({"x": "float[1,3,8,8]"}, "y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(x)", 3 * 3 * 3 * 9),
        ({"x": "float[1,3,8,8]"}, "y = GlobalAveragePool(x)", 3 * 64),
        ({"x": "float[3,8]"}, "y = Relu(x)", 24),
        ({"a": "float[3,8]", "b": "float[8]"}, "y = Add(a, b)", 24),
        ({"a": "float[3,8]", "b": "float[8]", "c": "float[3,1]"}, "y = Sum(a, b, c)", 48),
        ({"x": "float[3,8]"}, "y = Transpose<perm = [1, 0]>(x)", 0),
        ({"x": "float[3,8]", "i": "int64[2]"}, "y = Gather(x, i)", 0),
        ({"x": "float[3,8]"}, "y = Softmax(x)", 4 * 24),
    ],
)
def test_formulas(inputs: dict[str, str], body: str, expected: int) -> None:
    assert flops(graph_of(inputs, body)) == expected


def test_a_bilinear_resize_blends_four_pixels() -> None:
    body = 'y = Resize<mode = "linear">(x, , s)'
    graph = graph_of({"x": "float[1,2,4,4]"}, body, s=np.array([1, 1, 2, 2], np.float32))
    assert flops(graph) == 2 * 4 * (2 * 8 * 8)
    nearest = graph_of(
        {"x": "float[1,2,4,4]"}, 'y = Resize<mode = "nearest">(x, , s)', s=np.array([1, 1, 2, 2], np.float32)
    )
    assert flops(nearest) == 0


def test_recurrent_layers_multiply_input_and_state_for_every_gate() -> None:
    graph = graph_of({"x": "float[7,2,5]"}, "y, h, c = LSTM<hidden_size = 3>(x, w, r)", w=w(1, 12, 5), r=w(1, 12, 3))
    products = 7 * 2 * 4 * 3 * (5 + 3)
    assert 2 * products <= (flops(graph) or 0) <= 2 * products + 10 * 7 * 2 * 3


def test_attention_in_both_forms() -> None:
    four = graph_of(
        {"q": "float[2,3,5,8]", "k": "float[2,3,7,8]", "v": "float[2,3,7,6]"}, "y = Attention(q, k, v)", opset=23
    )
    three = graph_of(
        {"q": "float[2,5,24]", "k": "float[2,7,24]", "v": "float[2,7,18]"},
        "y = Attention<q_num_heads = 3, kv_num_heads = 3>(q, k, v)", opset=23,
    )  # fmt: skip
    scores = 2 * 3 * 5 * 7
    assert flops(four) == flops(three) == scores * (2 * 8 + 2 * 6 + 4)


def test_sizes_only_known_at_run_time() -> None:
    graph = graph_of({"x": "float[N,4,7,6]"}, "y = Conv(x, w)", w=w(6, 4, 3, 3))
    assert flops(graph) is None
    assert node_flops(graph_of({"x": "float[N,4]"}, "y = Relu(x)").nodes[0]) is None
    assert node_flops(graph_of({"x": "float[N,4]"}, "y = Transpose<perm = [1, 0]>(x)").nodes[0]) == 0

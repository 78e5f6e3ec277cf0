"""Zero points of constant weights are subtracted beforehand, in the fewest bits that hold the differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.driver.optimizing import optimize
from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, ops, rand, run_pass

NAME = "subtract-zero-points"
RNG = np.random.default_rng(0)
X = {"x": "float[2,3,5,5]"}
CONV = "d = DequantizeLinear<axis=0>(w, s, z)\ny = Conv(x, d)"
Array = np.ndarray[Any, Any]


def integers(dtype: Any, low: int, high: int, *shape: int) -> Array:
    found = RNG.integers(low, high + 1, shape).astype(dtype)
    found.reshape(-1)[:2] = low, high
    return found


@pytest.mark.parametrize(
    ("w", "z", "stored"),
    [
        (integers(np.uint8, 0, 255, 4, 3, 3, 3), np.uint8(128), np.int8),
        (integers(np.uint8, 60, 180, 4, 3, 3, 3), np.array([128, 130, 120, 140], np.uint8), np.int8),
        (integers(np.int8, -100, 100, 4, 3, 3, 3), np.array([0, 5, -9, 27], np.int8), np.int8),
        (integers(np.int8, -128, 127, 4, 3, 3, 3), np.array([0, 5, -9, 27], np.int8), np.int16),
    ],
    ids=["uint8 about 128", "uint8 by channel", "int8 by channel", "16 bits"],
)
def test_differences_are_stored(w: Array, z: Array, stored: Any) -> None:
    scale = rand(4, positive=True) / np.float32(50) if z.shape else np.float32(0.02)
    graph = graph_of(X, CONV, w=w, s=scale, z=z, opset=21)
    after = assert_fires(graph, NAME, ["DequantizeLinear", "Conv"])
    weight, *rest = after.nodes[0].inputs
    assert weight is not None
    assert weight.data is not None
    assert weight.data.dtype == stored
    assert len(rest) == 1
    spread = np.asarray(z, np.int64).reshape((-1, 1, 1, 1)) if np.shape(z) else int(z)
    np.testing.assert_array_equal(weight.data, w.astype(np.int64) - spread)


def test_what_stays() -> None:
    w = integers(np.int8, -128, 127, 4, 3, 3, 3)
    assert_refuses(graph_of(X, CONV, w=w, s=np.float32(0.02), z=np.int8(0)), NAME, "the zero point is 0")
    assert_refuses(graph_of(X, CONV, w=w, s=np.float32(0.02), z=np.int8(3)), NAME, "need 16 bits")
    added = CONV.replace("Conv(x, d)", "Add(x, d)")
    assert_refuses(graph_of(X, added, w=w[:1, :, :1, :1].copy(), s=np.float32(0.02), z=np.int8(3)), NAME, "no product")


def test_scales_along_another_axis() -> None:
    text = "d = DequantizeLinear<axis=1>(w, s, z)\ny = MatMul(x, d)"
    graph = graph_of({"x": "float[4,6]"}, text, w=integers(np.uint8, 90, 200, 6, 3), s=rand(3, positive=True),
                     z=np.array([120, 130, 140], np.uint8))  # fmt: skip
    after, _ = run_pass(graph, NAME)
    assert ops(after) == ["DequantizeLinear", "MatMul"]
    assert len(after.nodes[0].inputs) == 2


def test_weights_of_two_layers_are_stored_once() -> None:
    text = "d = DequantizeLinear(w, s, z)\na = Conv(x, d)\nr = Relu(x)\nb = Conv(r, d)\ny = Add(a, b)"
    graph = graph_of(X, text, w=integers(np.uint8, 0, 255, 4, 3, 3, 3), s=np.float32(0.02), z=np.uint8(128))
    after = optimize(graph, passes=[NAME], for_export=False)
    assert sum(v.data is not None and v.data.ndim == 4 for v in after.constants()) == 1

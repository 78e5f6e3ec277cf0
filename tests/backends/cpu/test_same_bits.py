"""Nothing in the code for a processor with fused multiply-adds rounds otherwise than in that for one without."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from tests.support.run_node import node


def _residual(with_float_bias: bool) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """A residual block of bytes whose sum comes out as float32, and what every step in float32 gives."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 32, 9, 7)).astype(np.uint8)
    w = rng.integers(-127, 128, (32, 32, 1, 1)).astype(np.int8)
    sx, sw = np.float32(0.0137), rng.uniform(0.002, 0.02, 32).astype(np.float32)
    bias = rng.standard_normal(32).astype(np.float32)
    constants = {"sx": sx, "zx": np.uint8(117), "w": w, "sw": sw, "b": bias}
    nodes = [
        node("DequantizeLinear", "x sx zx", "dx"),
        node("DequantizeLinear", "w sw", "dw", axis=0),
        node("Conv", "dx dw b" if with_float_bias else "dx dw", "c"),
        node("Add", "c dx", "y"),
        node("Mul", "dx sx", "m"),
        node("Sub", "dx m", "z"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "yz"],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    centred = x.astype(np.int64) - 117
    sums = np.einsum("nchw,oc->nohw", centred, w[:, :, 0, 0].astype(np.int64))
    steps = sums.astype(np.float32) * (sw * sx).reshape(-1, 1, 1)
    if with_float_bias:
        steps = steps + bias.reshape(-1, 1, 1)
    return model, x, steps + centred.astype(np.float32) * sx


@pytest.mark.parametrize("with_float_bias", [False, True])
@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_sums_after_products(target: str, with_float_bias: bool) -> None:
    model, x, want = _residual(with_float_bias)
    got = graphopt.compile(model, target, threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_means(target: str) -> None:
    """Of whole numbers, by one product with the number of elements' inverse and one with the scale."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 16, 11, 13)).astype(np.uint8)
    scale = np.float32(0.0137)
    nodes = [
        node("MaxPool", "x", "blocked", kernel_shape=[1, 1]),
        node("DequantizeLinear", "blocked s z", "d"),
        node("AveragePool", "d", "w", kernel_shape=[3, 5]),
        node("AveragePool", "d", "p", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "wp"],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in {"s": scale, "z": np.uint8(100)}.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    got = graphopt.compile(onnx.shape_inference.infer_shapes(model), target, threads=1).run({"x": x})
    centred = x.astype(np.int64) - 100
    padded = np.pad(centred, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for name, data, window in (("w", centred, (3, 5)), ("p", padded, (3, 3))):
        sums = np.lib.stride_tricks.sliding_window_view(data, window, axis=(2, 3)).sum((-1, -2))
        want = sums.astype(np.float32) * np.float32(1 / (window[0] * window[1])) * scale
        np.testing.assert_array_equal(got[name], want)

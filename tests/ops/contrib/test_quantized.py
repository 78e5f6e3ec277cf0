"""Operators on integers with scales compute, as plain operators, what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.ir.onnx_io import graph_to_onnx
from tests.ops.contrib.one_node import Array, check_close, check_steps, model_of
from tests.support.ort import run_ort

RNG = np.random.default_rng(3)
TYPES = pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8", "i8"])


def integers(dtype: Any, *shape: int) -> Array:
    """All integers of a type, the least and the greatest among them."""
    info = np.iinfo(dtype)
    found = RNG.integers(info.min, info.max + 1, shape).astype(dtype)
    found.reshape(-1)[:2] = info.min, info.max
    return found


def spelled(operands: dict[str, Array | None], dtype: Any) -> dict[str, Array | None]:
    """With zero points of 0 where there are none: ONNX Runtime's definitions have them optional, its checks don't."""
    return {name: np.zeros((), dtype) if array is None else array for name, array in operands.items()}


def small(*shape: int) -> Array:
    """Weights whose products with bytes ONNX Runtime sums without saturating (it does so in 16 bits, by pairs, on AVX2)."""
    return RNG.integers(-63, 64, shape).astype(np.int8)


def f32(value: Any) -> Array:
    return np.asarray(value, np.float32)


@TYPES
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("zero_points", [True, False], ids=["zero-points", "none"])
def test_binary(op: str, dtype: Any, zero_points: bool) -> None:
    zero = int(np.iinfo(dtype).min) + 117
    operands = {
        "a": integers(dtype, 2, 5, 7), "sa": f32(0.031), "za": np.array(zero, dtype) if zero_points else None,
        "b": integers(dtype, 5, 1), "sb": f32(0.017), "zb": np.array(zero - 9, dtype) if zero_points else None,
        "sc": f32(0.05), "zc": np.array(zero + 4, dtype) if zero_points else None,
    }  # fmt: skip
    check_steps(op, operands, "a b", dtype, spelled=spelled(operands, dtype))
    ones = {
        name: array.reshape(1) if array is not None and not array.ndim else array for name, array in operands.items()
    }
    check_steps(op, {**ones, "za": operands["za"]}, "a b", dtype, spelled=spelled(operands, dtype))


@TYPES
def test_activations(dtype: Any) -> None:
    zero = int(np.iinfo(dtype).min) + 117
    x = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype).reshape(4, 64)
    operands = {
        "x": x, "sx": f32(0.05), "zx": np.array(zero, dtype), "sy": f32([0.03]), "zy": np.array([zero + 4], dtype),
    }  # fmt: skip
    check_steps("QLinearLeakyRelu", operands, "x", dtype, alpha=0.3)
    check_steps("QLinearLeakyRelu", operands, "x", dtype)
    check_steps("QLinearSigmoid", {**operands, "sy": f32(0.004), "zy": np.array(zero - 117, dtype)}, "x", dtype)
    check_steps("QLinearSigmoid", {**operands, "zx": None, "sy": f32(0.005), "zy": None}, "x", dtype)


@TYPES
def test_where(dtype: Any) -> None:
    zero = int(np.iinfo(dtype).min) + 117
    operands = {
        "c": RNG.random((3, 1, 6)) < 0.5,
        "x": integers(dtype, 3, 4, 6), "sx": f32(0.05), "zx": np.array(zero, dtype),
        "w": integers(dtype, 4, 1), "sy": f32(0.02), "zy": np.array(zero + 20, dtype),
        "sz": f32(0.06), "zz": np.array(zero - 20, dtype),
    }  # fmt: skip
    check_steps("QLinearWhere", operands, "c x w", dtype)


@TYPES
def test_concat(dtype: Any) -> None:
    zero = int(np.iinfo(dtype).min) + 117
    operands = {
        "sy": f32(0.04), "zy": np.array(zero, dtype),
        "a": integers(dtype, 2, 3, 5), "sa": f32(0.04), "za": np.array(zero, dtype),
        "b": integers(dtype, 2, 1, 5), "sb": f32(0.09), "zb": np.array(zero + 3, dtype),
        "c": integers(dtype, 2, 2, 5), "sc": f32(0.01), "zc": np.array(zero - 30, dtype),
    }  # fmt: skip
    check_steps("QLinearConcat", operands, "a b", dtype, axis=1)
    check_steps("QLinearConcat", operands, "a b", dtype, axis=-2)


@TYPES
@pytest.mark.parametrize(("axis", "opset"), [(-1, 13), (1, 13), (1, 12), (2, 11), (0, 12)])
def test_softmax(dtype: Any, axis: int, opset: int) -> None:
    least = int(np.iinfo(dtype).min)
    operands = {
        "x": integers(dtype, 2, 5, 6), "sx": f32(0.03), "zx": np.array(least + 117, dtype), "sy": f32(1 / 256),
        "zy": np.array(least, dtype),
    }  # fmt: skip
    attributes = {"axis": axis, "opset": opset, "domain": "com.microsoft"}
    # ONNX Runtime sums exponentials of a table of fixed precision
    check_steps("QLinearSoftmax", operands, "x", dtype, most=0.2, **attributes)


@TYPES
@pytest.mark.parametrize("last", [0, 1])
def test_pools(dtype: Any, last: int) -> None:
    zero = int(np.iinfo(dtype).min) + 117
    x = integers(dtype, 2, 3, 9, 8)
    operands: dict[str, Array | None] = {
        "x": np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x,
        "sx": f32(0.05), "zx": np.array(zero, dtype), "sy": f32(0.0213), "zy": np.array(zero - 9, dtype),
    }  # fmt: skip
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "channels_last": last}
    for pads in (
        {},
        {"pads": [1, 0, 1, 1], "count_include_pad": 1},
        {"pads": [1, 0, 1, 1]},
        {"auto_pad": "SAME_UPPER"},
    ):
        check_steps("QLinearAveragePool", operands, "x", dtype, **window, **pads)
    check_steps("QLinearAveragePool", operands, "x", dtype, **window, ceil_mode=1)
    bare = {**operands, "zx": None, "zy": None}
    check_steps("QLinearAveragePool", bare, "x", dtype, spelled=spelled(bare, dtype), **window)
    check_steps("QLinearGlobalAveragePool", {**operands, "sy": f32(0.002)}, "x", dtype, channels_last=last)


@TYPES
def test_max_pool_of_channels_last(dtype: Any) -> None:
    operands = {"x": integers(dtype, 2, 9, 8, 3)}
    check_steps("NhwcMaxPool", operands, "x", dtype, most=0, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    check_steps("NhwcMaxPool", operands, "x", dtype, most=0, kernel_shape=[2, 2], ceil_mode=1, dilations=[2, 1])


@pytest.mark.parametrize("domain", ["com.microsoft", ""])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("x_type", "w_type"), [(np.uint8, np.int8), (np.int8, np.int8), (np.uint8, np.uint8)])
def test_convolution(x_type: Any, w_type: Any, last: int, per_channel: bool, domain: str) -> None:
    if last and not domain:
        pytest.skip("ai.onnx has no such order")
    x, w = integers(x_type, 2, 4, 9, 8), small(6, 2, 3, 2) if w_type is np.int8 else integers(w_type, 6, 2, 3, 2)
    scale = f32(RNG.uniform(0.001, 0.01, 6)) if per_channel else f32([0.005])
    # of several scales one zero point may serve all
    zero = np.array(0 if w_type is np.int8 else 131, w_type) if last else np.full(scale.shape, scale.size % 2, w_type)
    operands = {
        "x": np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x,
        "sx": f32(0.05), "zx": np.array(int(np.iinfo(x_type).min) + 117, x_type),
        "w": w, "sw": scale, "zw": zero if per_channel or not last else zero.reshape(1),
        "sy": f32(0.3), "zy": np.array(int(np.iinfo(x_type).min) + 90, x_type),
        "b": RNG.integers(-3000, 3000, 6).astype(np.int32),
    }  # fmt: skip
    if not domain and zero.shape != scale.shape:
        zero = np.full(scale.shape, zero, w_type)
    attributes = {"pads": [1, 0, 2, 1], "strides": [2, 1], "group": 2}
    if domain:
        attributes["channels_last"] = last
    for bias in (operands["b"], None):
        graph = check_steps("QLinearConv", {**operands, "b": bias}, "x", x_type, domain=domain, **attributes)
        assert "QLinearConv" not in {n.op for n in graph.nodes}


@TYPES
@pytest.mark.parametrize("turns", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("per_column", [False, True])
def test_gemm(dtype: Any, turns: tuple[int, int], per_column: bool) -> None:
    a, b = integers(dtype, 5, 12), small(12, 7)
    scale = f32(RNG.uniform(0.001, 0.01, 7)) if per_column else f32(0.005)
    zero = np.zeros(7, np.int8) + np.arange(7).astype(np.int8) if per_column else np.array(3, np.int8)
    operands: dict[str, Array | None] = {
        "a": a.T.copy() if turns[0] else a, "sa": f32(0.04), "za": np.array(int(np.iinfo(dtype).min) + 99, dtype),
        "b": b.T.copy() if turns[1] else b, "sb": scale, "zb": zero,
        "c": RNG.integers(-3000, 3000, 7).astype(np.int32), "sy": f32(0.11), "zy": np.array(11, dtype),
    }  # fmt: skip
    attributes = {"transA": turns[0], "transB": turns[1], "alpha": 1.5}
    check_steps("QGemm", operands, "a", dtype, **attributes)
    for c in (None, operands["c"], RNG.integers(-3000, 3000, (5, 1)).astype(np.int32), np.array(2000, np.int32)):
        floats = {**operands, "c": c, "sy": None, "zy": None}
        check_close("QGemm", floats, "a", {"y": np.float32}, **attributes)


@TYPES
@pytest.mark.parametrize("per_column", [False, True])
def test_products(dtype: Any, per_column: bool) -> None:
    scale = f32(RNG.uniform(0.001, 0.01, 7)) if per_column else f32([0.005])
    operands: dict[str, Array | None] = {
        "a": integers(dtype, 2, 5, 12), "b": small(12, 7), "sa": f32(0.04), "sb": scale,
        "za": np.array(int(np.iinfo(dtype).min) + 99, dtype), "zb": np.full(scale.shape, 3, np.int8),
        "bias": f32(RNG.standard_normal(7)),
    }  # fmt: skip
    check_close("MatMulIntegerToFloat", operands, "a sa za", {"y": np.float32})
    check_close("MatMulIntegerToFloat", {**operands, "zb": None}, "a", {"y": np.float32})
    if dtype is np.uint8:
        check_close("MatMulIntegerToFloat", {**operands, "za": None, "bias": None}, "a b", {"y": np.float32})
    data = {"a": f32(RNG.standard_normal((2, 5, 12)) * 3), "b": operands["b"], "sb": scale, "zb": operands["zb"]}
    check_close("DynamicQuantizeMatMul", data, "a", {"y": np.float32})
    check_close("DynamicQuantizeMatMul", {**data, "zb": None, "bias": operands["bias"]}, "a", {"y": np.float32})


def test_mean_which_onnx_runtime_has_no_kernel_for() -> None:
    x = integers(np.int8, 3, 4, 5)
    operands: dict[str, Array | None] = {
        "x": x, "sx": f32(0.05), "zx": np.array(11, np.int8), "sy": f32(0.0213), "zy": np.array(-3, np.int8),
    }  # fmt: skip
    model = model_of("QLinearReduceMean", operands, "x", {"out": np.int8}, axes=[0, -1], keepdims=0)
    (got,) = run_ort(graph_to_onnx(import_onnx(model)), {"x": x})
    mean = (x.astype(np.float64) - 11).mean((0, 2)) * 0.05
    np.testing.assert_array_equal(got, np.rint(mean / np.float32(0.0213)) - 3)
    assert got.std() > 3


def test_convolution_of_channels_last_which_onnx_runtime_has_no_kernel_for() -> None:
    x, w, bias = (f32(RNG.standard_normal(s)) for s in ((2, 7, 6, 4), (6, 4, 3, 3), (6,)))
    model = model_of("NhwcConv", {"x": x, "w": w, "b": bias}, "x", {"out": np.float32}, pads=[1, 1, 0, 0])
    (got,) = run_ort(graph_to_onnx(import_onnx(model)), {"x": x})
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0))), (3, 3), axis=(1, 2))
    np.testing.assert_allclose(got, np.einsum("nhwcij,ocij->nhwo", windows, w) + bias, rtol=1e-4, atol=1e-4)

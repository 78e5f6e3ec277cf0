"""Pooling on channel blocks against a float64 oracle, and as the kernels that models get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import global_pooling, pooling_plain
from graphopt.backends.cpu.kernels import pooling as kernel
from graphopt.backends.program.program import KernelStep
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.pooling import GlobalPoolSpec, PoolSpec
from graphopt.driver.compiling import to_program
from tests.support.conv_kernels import LEVELS, build, call, caps_of, to_logical, to_physical
from tests.support.run_node import reference, run, same


def pool(channels: int, size: tuple[int, int], kernel_size: tuple[int, int], **options: Any) -> PoolSpec:
    block, batch = options.pop("block", 16), options.pop("batch", 1)
    average, counted = options.pop("average", False), options.pop("counted", (0, 0, 0, 0))
    window = Conv2dSpec(
        batch, channels, *size, channels, kernel_size, groups=channels, in_block=block, out_block=block, **options
    )
    return PoolSpec(window, average, counted)


WINDOWS: dict[str, dict[str, Any]] = {
    "3x3 stride 2": {"channels": 32, "size": (15, 37), "kernel_size": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    "2x2 stride 2": {"channels": 16, "size": (8, 34), "kernel_size": (2, 2), "strides": (2, 2), "batch": 2},
    "5x5": {"channels": 24, "size": (9, 11), "kernel_size": (5, 5), "pads": (2, 2, 2, 2), "block": 8},
    "whole rows": {"channels": 8, "size": (6, 7), "kernel_size": (1, 7), "block": 8},
    "dilated, asymmetric": {
        "channels": 12, "size": (13, 12), "kernel_size": (3, 2), "strides": (2, 3), "pads": (1, 0, 2, 1),
        "dilations": (2, 3), "block": 4,
    },
    "one pixel": {"channels": 16, "size": (1, 1), "kernel_size": (3, 3), "pads": (1, 1, 1, 1)},
}  # fmt: skip


def oracle(x: np.ndarray, spec: PoolSpec) -> np.ndarray:
    """Pooling in float64 by its definition, window by window."""
    window = spec.window
    n, c, height, width = x.shape
    out = np.zeros((n, c, int(window.out_height), int(window.out_width)))
    for oy in range(out.shape[2]):
        for ox in range(out.shape[3]):
            ys = [oy * window.strides[0] - window.pads[0] + k * window.dilations[0] for k in range(window.kernel[0])]
            xs = [ox * window.strides[1] - window.pads[1] + k * window.dilations[1] for k in range(window.kernel[1])]
            inside = [(y, x_) for y in ys for x_ in xs if 0 <= y < height and 0 <= x_ < width]
            values = np.stack([x[:, :, y, x_] for y, x_ in inside]).astype(np.float64)
            if not spec.average:
                out[:, :, oy, ox] = values.max(axis=0)
                continue
            top, left, bottom, right = spec.counted
            rows = sum(-top <= y < height + bottom for y in ys)
            out[:, :, oy, ox] = values.sum(axis=0) / (rows * sum(-left <= x_ < width + right for x_ in xs))
    return out


def data_of(spec: PoolSpec) -> np.ndarray:
    window = spec.window
    shape = (window.batch, window.in_channels, window.in_height, window.in_width)
    return np.random.default_rng(5).standard_normal(shape, dtype=np.float32)


def compute(spec: PoolSpec, level: str, x: np.ndarray, function: Any = None) -> np.ndarray:
    caps = caps_of(level)
    assert kernel.supports(spec.window, caps) is None
    function = function or build(kernel.emit(spec, kernel.default_config(spec, caps)), level)
    shape = tuple(int(d) for d in spec.window.output_shape)
    return to_logical(call(function, [to_physical(x, spec.window.in_block)], shape), spec.window.out_block)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["max", "mean", "mean with padding"])
@pytest.mark.parametrize("name", WINDOWS)
def test_matches_oracle(name: str, kind: str, level: str) -> None:
    spec = pool(**WINDOWS[name], average=kind != "max")
    if kind == "mean with padding":
        spec = replace(spec, counted=spec.window.pads)
    x = data_of(spec)
    actual = compute(spec, level, x)
    if kind == "max":
        np.testing.assert_array_equal(actual, oracle(x, spec))
    else:
        np.testing.assert_allclose(actual, oracle(x, spec), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["max", "mean", "mean with padding"])
@pytest.mark.parametrize("name", WINDOWS)
def test_plain_matches_oracle(name: str, kind: str, level: str) -> None:
    base = pool(**WINDOWS[name], average=kind != "max")
    spec = replace(base, window=replace(base.window, in_block=1, out_block=1))
    if kind == "mean with padding":
        spec = replace(spec, counted=spec.window.pads)
    caps = caps_of(level)
    assert pooling_plain.supports(spec.window, caps) is None
    x = data_of(spec)
    x[0, 5, 0, -1] = np.nan
    function = build(pooling_plain.emit(spec, pooling_plain.default_config(spec, caps)), level)
    arrays = [x, pooling_plain.factors(spec)] if spec.average else [x]
    actual = call(function, arrays, tuple(int(d) for d in spec.window.output_shape))
    np.testing.assert_allclose(actual, oracle(x, spec), rtol=1e-5, atol=1e-6 if spec.average else 0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("at", [(0, 0), (7, 20), (14, 36)])
def test_nan_and_infinities(at: tuple[int, int], level: str) -> None:
    spec = pool(**WINDOWS["3x3 stride 2"])
    x = data_of(spec)
    x[0, 5, at[0], at[1]] = np.nan
    x[0, 6, at[0], at[1]] = np.inf
    x[0, 7] = -np.inf
    np.testing.assert_array_equal(compute(spec, level, x), oracle(x, spec))
    assert np.isnan(oracle(x, spec)[0, 5]).any()


@pytest.mark.parametrize("kind", ["max", "mean", "mean with padding"])
@pytest.mark.parametrize("name", ["3x3 stride 2", "2x2 stride 2", "dilated, asymmetric"])
def test_symbolic_height_and_width(name: str, kind: str) -> None:
    base = pool(**{**WINDOWS[name], "batch": 1}, average=kind != "max")
    if kind == "mean with padding":
        base = replace(base, counted=base.window.pads)
    window = replace(base.window, in_height=tirx.Var("h", "int64"), in_width=tirx.Var("w", "int64"))
    symbolic = replace(base, window=window)
    # Shorter rows than the default ones: the same loops, in a third of the code. Models below get the default.
    config = replace(kernel.default_config(symbolic, caps_of("x86-64-v3")), tile=4)
    function = build(kernel.emit(symbolic, config), "x86-64-v3")
    for height, width in [(6, 5), (7, 40), (12, 17)]:
        spec = replace(base, window=replace(base.window, in_height=height, in_width=width))
        x = data_of(spec)
        np.testing.assert_allclose(compute(spec, "x86-64-v3", x, function), oracle(x, spec), rtol=1e-5, atol=1e-6)


NODES: dict[str, dict[str, Any]] = {
    "max": {"op_type": "MaxPool", "kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 1]},
    "max, rounded up": {"op_type": "MaxPool", "kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "max, same": {"op_type": "MaxPool", "kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"},
    "mean": {"op_type": "AveragePool", "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "mean, rounded up": {
        "op_type": "AveragePool", "kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1,
        "count_include_pad": 1,
    },
    "mean, dilated": {"op_type": "AveragePool", "kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 2, 1, 2]},
}  # fmt: skip


def model_of(node: dict[str, Any], size: tuple[int | str, int | str]) -> Any:
    """A convolution, whose result comes in blocks, a pooling and an activation."""
    weight = np.random.default_rng(3).standard_normal((24, 4, 1, 1), dtype=np.float32)
    attributes = {k: v for k, v in node.items() if k != "op_type"}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(node["op_type"], ["c"], ["p"], **attributes),
        helper.make_node("HardSwish", ["p"], ["h"]),
        helper.make_node("Conv", ["h", "v"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 4, *size])], [value("y", TensorProto.FLOAT, [1, 4, "oh", "ow"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ascontiguousarray(weight.transpose(1, 0, 2, 3)), "v")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(pytest.param(name, (14, 11), id=f"{name}-static") for name in NODES),
        *(
            pytest.param(
                name,
                ("h", "w"),
                id=f"{name}-symbolic",
                marks=() if name == "mean" or "rounded" in name else pytest.mark.slow,
            )
            for name in NODES
        ),
    ],
)
@pytest.mark.few(4)
def test_models_get_the_kernel_with_its_epilogue(name: str, size: tuple[int | str, int | str]) -> None:
    model = model_of(NODES[name], size)
    _, _, program = to_program(model, "x86", threads=1)
    steps = [s for s in program.steps if isinstance(s, KernelStep) and s.function.startswith(("max", "average"))]
    unknown = size[0] == "h" and "rounded" in name
    assert [s.template for s in steps] == ["generic" if unknown else "pooling"]
    feed = {"x": np.random.default_rng(0).standard_normal((1, 4, 14, 11), dtype=np.float32)}
    same("y", run(model, feed)["y"], reference(model, feed)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("average", [True, False], ids=["mean", "max"])
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (2, 3), (13, 17)], ids=str)
def test_global_matches_oracle(size: tuple[int, int], average: bool, level: str) -> None:
    spec = GlobalPoolSpec(2, 32, *size, 16, average)
    x = np.random.default_rng(5).standard_normal((2, 32, *size), dtype=np.float32)
    x[1, 3, -1, -1], x[1, 20, 0, 0] = np.nan, -np.inf
    function = build(global_pooling.emit(spec, global_pooling.default_config(spec, caps_of(level))), level)
    actual = to_logical(call(function, [to_physical(x, 16)], (2, 2, 1, 1, 16)), 16)[:, :, 0, 0]
    wide = x.astype(np.float64)
    if average:
        np.testing.assert_allclose(actual, wide.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(actual, wide.max(axis=(2, 3)))


@pytest.mark.parametrize("size", [(14, 11), ("h", "w")], ids=["static", "symbolic"])
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_models_get_the_global_kernel(op: str, size: tuple[int | str, int | str]) -> None:
    model = model_of({"op_type": op}, size)
    _, _, program = to_program(model, "x86", threads=1)
    steps = [s for s in program.steps if isinstance(s, KernelStep) and s.function.startswith("global")]
    assert [s.template for s in steps] == ["global-pooling"]
    feed = {"x": np.random.default_rng(0).standard_normal((1, 4, 14, 11), dtype=np.float32)}
    same("y", run(model, feed)["y"], reference(model, feed)["y"], rtol=1e-4, atol=1e-4)


def test_refuses_with_a_reason() -> None:
    base = pool(**WINDOWS["2x2 stride 2"]).window
    caps = caps_of("x86-64-v2")
    for word, spec in {"blocks": replace(base, out_block=8), "negative": replace(base, pads=(0, -1, 0, 0))}.items():
        assert word in (kernel.supports(spec, caps) or "")

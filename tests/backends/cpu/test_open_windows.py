"""Depthwise convolutions and pools of plain data whose rows and columns only run time knows, against sums in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx.reference
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import graphopt
from tests.backends.cpu.test_symbolic_windows import convolved

SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 11, 14, 17, 28, 29, 70, 131, 300)
MOST_PIXELS = 6000


def network(
    nodes: Sequence[Any], shape: Sequence[Any], weights: dict[str, np.ndarray], dtype: int = TensorProto.FLOAT
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "window",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def templates(model: graphopt.CompiledModel) -> set[str]:
    assert model.plan is not None
    return {kernel.template for kernel in model.plan.kernels.values()}


def sizes(kernel: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of images that hold a window, short and long ones of each in turn."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    return [
        (h, w)
        for i, h in enumerate(SIDES)
        for w in SIDES[i % 2 :: 2]
        if h * w <= MOST_PIXELS and h + pads[0] + pads[2] >= reach[0] and w + pads[1] + pads[3] >= reach[1]
    ]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("channels", "kernel", "pads", "strides", "dilations"),
    [
        pytest.param(6, (3, 3), (1, 1, 1, 1), (1, 1), (1, 1), id="3x3"),
        pytest.param(5, (5, 5), (2, 2, 2, 2), (2, 2), (1, 1), id="5x5 steps"),
        pytest.param(6, (7, 7), (3, 3, 3, 3), (1, 1), (1, 1), id="7x7", marks=SLOW),
        pytest.param(7, (3, 3), (2, 0, 1, 3), (1, 1), (1, 1), id="uneven", marks=SLOW),
        pytest.param(3, (3, 3), (4, 6, 4, 6), (1, 1), (4, 6), id="dilated", marks=SLOW),
        pytest.param(5, (4, 3), (2, 0, 1, 3), (3, 2), (1, 2), id="dilated steps"),
        pytest.param(9, (1, 9), (0, 4, 0, 4), (1, 1), (1, 1), id="flat", marks=SLOW),
        pytest.param(5, (3, 3), (0, 0, 1, 1), (2, 2), (1, 1), id="padded behind", marks=SLOW),
        pytest.param(5, (2, 2), (0, 0, 0, 0), (2, 2), (1, 1), id="patches", marks=SLOW),
        pytest.param(3, (3, 3), (1, 1, 1, 1), (3, 3), (1, 1), id="long steps", marks=SLOW),
        pytest.param(3, (3, 3), (1, 30, 1, 40), (1, 1), (1, 1), id="wide padding", marks=SLOW),
    ],
)
def test_a_depthwise_convolution_of_any_size(
    channels: int, kernel: tuple[int, int], pads: tuple[int, ...], strides: tuple[int, int], dilations: tuple[int, int]
) -> None:
    rng = np.random.default_rng(channels)
    w = rng.standard_normal((channels, 1, *kernel)).astype(np.float32)
    attributes = {"pads": pads, "strides": strides, "dilations": dilations, "group": channels}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], **attributes),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["x", "v"], ["d"], **attributes),
        helper.make_node("Add", ["d", "r"], ["y"]),
    ]
    proto = network(nodes, ["n", channels, "h", "w_"], {"w": w, "v": w})
    model = graphopt.compile(proto, threads=2)
    assert templates(model) == {"conv2d-depthwise-plain"}
    for count, (height, width) in enumerate(sizes(kernel, pads, dilations)):
        x = rng.standard_normal((count % 3, channels, height, width)).astype(np.float32)
        c = convolved(x.astype(np.float64), w.astype(np.float64), pads, strides, dilations, channels)
        most = np.abs(c).max(initial=0)
        np.testing.assert_allclose(model.run({"x": x})["y"], c + np.maximum(c, 0), rtol=0, atol=1e-5 * most)


POOLS = {
    "max": helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
    "mean": helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=(3, 2), pads=(1, 0, 1, 1)),
    "mean of padding": helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=1
    ),
    "max of all": helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=(5, 3), pads=(2, 1, 2, 1), dilations=(1, 2)),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "mean" else SLOW) for name in POOLS])
def test_a_pool_of_any_size(name: str) -> None:
    rng = np.random.default_rng(3)
    node = POOLS[name]
    proto = network([node], ["n", 3, "h", "w_"], {})
    model = graphopt.compile(proto, threads=2)
    assert templates(model) == {"pooling-plain"}
    oracle = onnx.reference.ReferenceEvaluator(proto)
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for height, width in sizes(given["kernel_shape"], given["pads"], given.get("dilations", (1, 1)))[::7]:
        x = rng.standard_normal((2, 3, height, width)).astype(np.float32)
        x[0, 0, height // 2, width // 2] = -np.inf
        (want,) = oracle.run(None, {"x": x})
        np.testing.assert_allclose(model.run({"x": x})["y"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "ends"),
    [
        pytest.param(("n", 5, 9, 13), "Relu", id="images"),
        pytest.param((2, 5, 9, "w_"), "Sigmoid", id="columns"),
        pytest.param((1, 5, "h", 13), "Ceil", id="rows", marks=SLOW),
        pytest.param(("n", 5, "h", "w_"), "Mish", id="long epilogue", marks=SLOW),
        pytest.param(("n", 5, "h", "w_"), "Gelu", id="function", marks=SLOW),
    ],
)
def test_some_axes_are_open(shape: tuple[Any, ...], ends: str) -> None:
    rng = np.random.default_rng(4)
    w, b = (rng.standard_normal(s).astype(np.float32) for s in ((5, 1, 3, 3), (5,)))
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=(1, 1, 1, 1), group=5),
        helper.make_node(ends, ["c"], ["y"]),
    ]
    proto = network(nodes, shape, {"w": w, "b": b})
    if ends == "Gelu":
        proto.opset_import[0].version = 20
    model = graphopt.compile(proto, threads=2)
    assert templates(model) == {"conv2d-depthwise-plain"}
    oracle = onnx.reference.ReferenceEvaluator(proto)
    free = {"n": (1, 3), "h": (1, 9), "w_": (2, 8, 21)}
    for extents in itertools.product(*(free.get(d, (d,)) if isinstance(d, str) else (d,) for d in shape)):
        x = rng.standard_normal(extents).astype(np.float32)
        (want,) = oracle.run(None, {"x": x})
        np.testing.assert_allclose(model.run({"x": x})["y"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_data_of_sixteen_bits(steps: int) -> None:
    rng = np.random.default_rng(5)
    w = rng.standard_normal((5, 1, 3, 3)).astype(np.float16)
    attributes = {"pads": (1, 1, 1, 1), "strides": (steps, steps), "group": 5}
    proto = network(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
        ["n", 5, "h", "w_"],
        {"w": w},
        TensorProto.FLOAT16,
    )
    model = graphopt.compile(proto, threads=2)
    assert templates(model) == {"conv2d-depthwise-plain"}
    for height, width in ((1, 1), (3, 5), (8, 9), (14, 33)):
        x = rng.standard_normal((2, 5, height, width)).astype(np.float16)
        want = convolved(x.astype(np.float64), w.astype(np.float64), (1, 1, 1, 1), (steps, steps), (1, 1), 5)
        np.testing.assert_allclose(model.run({"x": x})["y"].astype(np.float64), want, rtol=2e-3, atol=2e-3)

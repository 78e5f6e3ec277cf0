"""Convolutions over three axes, as images of slices, against float64 sums over windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx.reference
import pytest
from onnx import ModelProto, helper, numpy_helper

import graphopt
from tests.support.tolerance import assert_close

Array = np.ndarray


def conv3d(
    x: Array, w: Array, b: Array, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> Array:
    """ONNX's Conv over three axes in float64."""
    around = [(0, 0), (0, 0), *zip(pads[:3], pads[3:])]
    padded = np.pad(x.astype(np.float64), around)
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3, 4))
    picked = windows[
        :, :, :: strides[0], :: strides[1], :: strides[2], :: dilations[0], :: dilations[1], :: dilations[2]
    ]
    return np.einsum("ncdhwzyx,oczyx->nodhw", picked, w.astype(np.float64)) + b.reshape(1, -1, 1, 1, 1)


def draw(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def network(shape: Sequence[Any], nodes: Sequence[Any], constants: dict[str, Array]) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def templates(model: graphopt.CompiledModel) -> list[str]:
    assert model.program is not None
    return [kernel.template for kernel in model.program.kernels if kernel.template != "dims"]


CASES = [
    # channels, filters, kernel, strides, pads, dilations, extents
    (3, 24, (3, 5, 7), (1, 2, 2), (1, 2, 3, 1, 2, 3), (1, 1, 1), (4, 13, 15)),
    (5, 7, (2, 1, 3), (2, 1, 1), (1, 0, 1, 0, 0, 2), (1, 1, 2), (5, 6, 9)),
    (20, 16, (3, 1, 1), (1, 1, 1), (2, 0, 0, 2, 0, 0), (2, 1, 1), (5, 4, 9)),
    (16, 32, (1, 3, 3), (1, 1, 1), (0, 1, 1, 0, 1, 1), (1, 1, 1), (3, 9, 7)),
    (16, 8, (3, 3, 3), (3, 1, 1), (3, 1, 0, 1, 0, 1), (1, 1, 1), (7, 6, 9)),
    (8, 12, (1, 1, 1), (1, 2, 2), (0,) * 6, (1, 1, 1), (3, 7, 5)),
    (7, 16, (1, 1, 1), (1, 1, 1), (0,) * 6, (1, 1, 1), (2, 3, 5)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_convolution_of_one_layer(case: tuple[Any, ...]) -> None:
    channels, filters, kernel, strides, pads, dilations, extents = case
    rng = np.random.default_rng(channels)
    w, b, x = draw(rng, filters, channels, *kernel), draw(rng, filters), draw(rng, 2, channels, *extents)
    attrs = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attrs)
    # without a depth, sizes are read off the data
    shape = ("n", channels, extents[0], "h", "w") if channels == 16 else x.shape
    model = graphopt.compile(network(shape, [node], {"w": w, "b": b}).SerializeToString(), "native", threads=2)
    assert set(templates(model)) <= {"conv2d-direct", "conv2d-winograd", "layout-copy"}
    want = conv3d(x, w, b, strides, pads, dilations).astype(np.float32)
    # Winograd's errors are those of a sum some ten times as long
    reduction = channels * int(np.prod(kernel)) * (100 if "conv2d-winograd" in templates(model) else 1)
    assert_close(model.run({"x": x})["y"], want, reduction=reduction)


@pytest.mark.parametrize(
    "case",
    [case if case[1] in (7, 32) else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
    ids=str,
)
@pytest.mark.parametrize("plane", ["open", pytest.param("fixed", marks=pytest.mark.slow)])
def test_slices_of_any_number(case: tuple[Any, ...], plane: str) -> None:
    """Windows meet padding on either side or on both, and there are fewer slices than the kernel has, or no images at all."""
    channels, filters, kernel, strides, pads, dilations, extents = case
    rng = np.random.default_rng(channels)
    w, b = draw(rng, filters, channels, *kernel), draw(rng, filters)
    attrs = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], **attrs),
        helper.make_node("Conv", ["x", "v", "b"], ["d"], **attrs),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("Add", ["c", "r"], ["y"]),
    ]
    shape = ("n", channels, "d", *(("h", "w_") if plane == "open" else extents[1:]))
    model = graphopt.compile(network(shape, nodes, {"w": w, "v": w, "b": b}).SerializeToString(), "native", threads=2)
    assert set(templates(model)) <= {"conv2d-direct", "conv2d-winograd", "layout-copy"}
    planes = [extents[1:], (1, 1), (2, 5), (3, 17), (14, 4)] if plane == "open" else [extents[1:]]
    reduction = channels * int(np.prod(kernel)) * (100 if "conv2d-winograd" in templates(model) else 1)
    for count, (height, width) in enumerate(planes):
        for depth in (1, 2, 3, 4, 7):
            size = depth, height, width
            spare = [size[i] + pads[i] + pads[i + 3] - (kernel[i] - 1) * dilations[i] - 1 for i in range(3)]
            if min(spare) < 0:
                continue
            x = draw(rng, (count + depth) % 3, channels, *size)
            c = conv3d(x, w, b, strides, pads, dilations)
            assert_close(model.run({"x": x})["y"], (c + np.maximum(c, 0)).astype(np.float32), reduction=reduction)


@pytest.mark.parametrize("exact", [False, True], ids=["any", "exact"])
@pytest.mark.parametrize("sizes", ["known", pytest.param("open", marks=pytest.mark.slow)])
def test_a_residual_block_stays_in_blocks_of_channels(exact: bool, sizes: str) -> None:
    rng = np.random.default_rng(5)
    x = draw(rng, 1, 3, 5, 12, 11)
    constants = {
        "a": draw(rng, 32, 3, 3, 3, 3) / 9,
        "b": draw(rng, 32, 32, 3, 3, 3) / 30,
        "c": draw(rng, 32, 32, 3, 3, 3) / 30,
    }
    same = {"kernel_shape": [3] * 3, "pads": [1] * 6}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], **same),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b"], ["r"], **same),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("Conv", ["s", "c"], ["t"], **same),
        helper.make_node("Add", ["t", "q"], ["u"]),
        helper.make_node("Relu", ["u"], ["v"]),
        helper.make_node("GlobalAveragePool", ["v"], ["y"]),
    ]
    shape = x.shape if sizes == "known" else ("n", 3, "d", "h", "w_")
    model = graphopt.compile(network(shape, nodes, constants).SerializeToString(), "native", threads=2, exact=exact)
    middle = "conv2d-direct" if exact else "conv2d-winograd"
    assert templates(model) == ["conv2d-direct", middle, middle, "global-pooling"]
    zero, one = np.zeros(32), (1, 1, 1)

    def layer(data: Array, w: Array) -> Array:
        return conv3d(data, w, zero, one, (1,) * 6, one)

    first = np.maximum(layer(x, constants["a"]), 0)
    want = np.maximum(layer(np.maximum(layer(first, constants["b"]), 0), constants["c"]) + first, 0).mean(
        (2, 3, 4), keepdims=True
    )
    assert_close(model.run({"x": x})["y"], want.astype(np.float32), reduction=32 * 27, depth=4)


def sandwiched(node: Any, shape: Sequence[Any], constants: dict[str, Array]) -> ModelProto:
    """A layer of 16 channels between convolutions that change nothing, so that its data come in channel blocks."""
    same = np.eye(16, dtype=np.float32)[:, :, None, None, None]
    before, after = (helper.make_node("Conv", [x, "same"], [y]) for x, y in (("x", "b"), ("c", "y")))
    return network(shape, [before, node, after], {"same": same, **constants})


SHAPES = {"known": (2, 16, 4, 9, 8), "open": ("n", 16, "d", "h", "w_"), "open depth": ("n", 16, "d", 9, 8)}


def each_size(shape: Sequence[Any], reach: Sequence[int], pads: Sequence[int]) -> list[tuple[int, ...]]:
    """Data of a declared shape that hold a window."""
    found = []
    for images, sizes in enumerate([(1, 1, 1), (1, 5, 3), (2, 4, 9), (3, 1, 14), (4, 17, 6), (7, 9, 8)]):
        extents = [d if isinstance(d, int) else e for d, e in zip(shape[2:], sizes)]
        if all(e + pads[i] + pads[i + 3] >= reach[i] for i, e in enumerate(extents)):
            found.append((shape[0] if isinstance(shape[0], int) else images % 3, 16, *extents))
    return found


def marked(first: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Parameters, all slow but those given."""
    return [pytest.param(n, s, marks=() if (n, s) in first else pytest.mark.slow) for n in names for s in SHAPES]


DEPTHWISE = {
    # kernel, strides, pads, dilations
    "3x3x3": ((3, 3, 3), (1, 1, 1), (1,) * 6, (1, 1, 1)),
    "steps": ((5, 3, 3), (2, 2, 2), (2, 1, 0, 1, 1, 1), (1, 1, 1)),
    "slices alone": ((3, 1, 1), (1, 1, 1), (2, 0, 0, 2, 0, 0), (2, 1, 1)),
    "planes alone": ((1, 3, 3), (1, 2, 2), (0, 1, 1, 0, 1, 1), (1, 1, 1)),
}


@pytest.mark.parametrize(("name", "sizes"), marked([("steps", "known"), ("slices alone", "open")], list(DEPTHWISE)))
def test_a_depthwise_convolution_of_slices(name: str, sizes: str) -> None:
    kernel, strides, pads, dilations = DEPTHWISE[name]
    rng = np.random.default_rng(6)
    w, b = draw(rng, 16, 1, *kernel), draw(rng, 16)
    attributes = {"strides": strides, "pads": pads, "dilations": dilations, "group": 16}
    node = helper.make_node("Conv", ["b", "w", "bias"], ["c"], **attributes)
    proto = sandwiched(node, SHAPES[sizes], {"w": w, "bias": b})
    model = graphopt.compile(proto.SerializeToString(), "native", threads=2)
    assert set(templates(model)) <= {"conv2d-direct", "conv2d-depthwise", "layout-copy"}
    dense = np.zeros((16, 16, *kernel))
    dense[range(16), range(16)] = w[:, 0]
    for size in each_size(SHAPES[sizes], [(k - 1) * d + 1 for k, d in zip(kernel, dilations)], pads):
        x = draw(rng, *size)
        want = conv3d(x, dense, b, strides, pads, dilations).astype(np.float32)
        assert_close(model.run({"x": x})["y"], want, reduction=int(np.prod(kernel)) + 32)


POOLS = {
    "max": ("MaxPool", {"kernel_shape": (3, 3, 3), "strides": (2, 2, 2), "pads": (1,) * 6}, "pooling"),
    "mean": ("AveragePool", {"kernel_shape": (2, 3, 3), "strides": (1, 1, 2), "pads": (0, 1, 1, 0, 1, 0)}, "pooling"),
    "mean of padding": (
        "AveragePool", {"kernel_shape": (3, 3, 3), "pads": (1,) * 6, "count_include_pad": 1}, "pooling",
    ),
    "mean of fewer slices": ("AveragePool", {"kernel_shape": (3, 3, 3), "pads": (1,) * 6}, "generic"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "sizes"), marked([("max", "known"), ("mean", "open depth")], list(POOLS)))
def test_a_pool_of_slices(name: str, sizes: str) -> None:
    operator, attributes, template = POOLS[name]
    rng = np.random.default_rng(7)
    proto = sandwiched(helper.make_node(operator, ["b"], ["c"], **attributes), SHAPES[sizes], {})
    model = graphopt.compile(proto.SerializeToString(), "native", threads=2)
    assert template in templates(model)
    oracle = onnx.reference.ReferenceEvaluator(proto)
    for size in each_size(SHAPES[sizes], attributes["kernel_shape"], attributes["pads"]):  # type: ignore[arg-type]
        if not size[0]:
            continue  # the reference takes no maxima of nothing
        x = draw(rng, *size)
        assert_close(model.run({"x": x})["y"], oracle.run(None, {"x": x})[0], reduction=64)

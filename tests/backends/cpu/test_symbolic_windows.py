"""Convolutions of planes whose sizes only run time knows: tiles at borders, short axes, remainders, epilogues, against float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx.reference
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import graphopt

SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 14, 17, 28, 29)


def convolved(
    x: NDArray[np.float64],
    w: NDArray[np.float64],
    pads: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> NDArray[np.float64]:
    """The definition of a convolution, one kernel element after the other."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height = (padded.shape[2] - (w.shape[2] - 1) * dilations[0] - 1) // strides[0] + 1
    width = (padded.shape[3] - (w.shape[3] - 1) * dilations[1] - 1) // strides[1] + 1
    parts = []
    for data, weight in zip(np.split(padded, groups, 1), np.split(w, groups, 0)):
        total = np.zeros((x.shape[0], weight.shape[0], height, width))
        for ky in range(w.shape[2]):
            for kx in range(w.shape[3]):
                y0, x0 = ky * dilations[0], kx * dilations[1]
                window = data[:, :, y0 : y0 + (height - 1) * strides[0] + 1 : strides[0], x0 :: strides[1]][..., :width]
                total += np.einsum("nchw,oc->nohw", window, weight[:, :, ky, kx])
        parts.append(total)
    return np.concatenate(parts, 1)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "pads", "strides", "dilations", "groups"),
    [
        pytest.param(16, 24, (1, 1), (0, 0, 0, 0), (1, 1), (1, 1), 1, id="pointwise"),
        pytest.param(3, 16, (3, 3), (1, 1, 1, 1), (2, 2), (1, 1), 1, id="first layer"),
        pytest.param(16, 16, (3, 3), (1, 1, 1, 1), (1, 1), (1, 1), 1, id="3x3"),
        pytest.param(8, 8, (5, 3), (2, 0, 2, 2), (1, 1), (1, 1), 1, id="uneven padding"),
        pytest.param(8, 16, (3, 3), (2, 2, 2, 2), (1, 1), (2, 2), 1, id="dilated"),
        pytest.param(8, 16, (3, 3), (0, 1, 0, 0), (1, 3), (1, 1), 1, id="long steps"),
        pytest.param(32, 32, (3, 3), (1, 1, 1, 1), (1, 1), (1, 1), 32, id="depthwise"),
        pytest.param(32, 32, (5, 5), (2, 2, 2, 2), (2, 2), (1, 1), 32, id="depthwise steps"),
        pytest.param(32, 32, (7, 7), (3, 3, 3, 3), (1, 1), (1, 1), 32, id="depthwise wide"),
        pytest.param(32, 32, (15, 15), (7, 7, 7, 7), (1, 1), (1, 1), 32, id="depthwise huge", marks=pytest.mark.slow),
    ],
)
@pytest.mark.few(4)
def test_all_sizes(
    channels: int, outputs: int, kernel: tuple[int, int], pads: tuple[int, int, int, int], strides: tuple[int, int],
    dilations: tuple[int, int], groups: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(0)
    w = rng.standard_normal((outputs, channels // groups, *kernel)).astype(np.float32)
    attributes = {"kernel_shape": kernel, "pads": pads, "strides": strides, "dilations": dilations, "group": groups}
    constants = {"w": w}
    data = "x"
    if groups > 1:  # behind a convolution that only renames the data, they come in channel blocks
        data, constants["same"] = "b", np.eye(channels, dtype=np.float32)[:, :, None, None]
    nodes = [
        *([helper.make_node("Conv", ["x", "same"], ["b"])] if groups > 1 else []),
        helper.make_node("Conv", [data, "w"], ["c"], **attributes),
        helper.make_node("Conv", [data, "w"], ["d"], **attributes),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("Add", ["c", "r"], ["y"]),
    ]
    shape = ["n", channels, "h", "w_"]
    graph = helper.make_graph(
        nodes,
        "window",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = graphopt.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), threads=2)
    if groups > 1:
        assert model.plan is not None
        assert "conv2d-depthwise" in {k.template for k in model.plan.kernels.values()}
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    for count, height in enumerate(SIDES):
        for width in SIDES[count % 3 :: 3]:
            if height + pads[0] + pads[2] < reach[0] or width + pads[1] + pads[3] < reach[1]:
                continue
            x = rng.standard_normal((1 + count % 2, channels, height, width)).astype(np.float32)
            c = convolved(x.astype(np.float64), w.astype(np.float64), pads, strides, dilations, groups)
            np.testing.assert_allclose(
                model.run({"x": x})["y"], c + np.maximum(c, 0), rtol=0, atol=1e-5 * np.abs(c).max()
            )


@pytest.mark.parametrize("likely", [1, 3, 7])
@pytest.mark.few(1)
def test_rows_of_the_likely_length(likely: int) -> None:
    """Narrow rows have code of their own if they are as long as expected: those and their neighbours, above and below."""
    rng = np.random.default_rng(likely)
    w = rng.standard_normal((32, 1, 5, 5)).astype(np.float32)
    blocked = rng.standard_normal((32, 16, 1, 1)).astype(np.float32)
    pads = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "blocked"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"], pads=(2, 2, 2, 1), group=32),
        helper.make_node("MaxPool", ["c"], ["most"], **pads),
        helper.make_node("AveragePool", ["most"], ["mean"], **pads),
        helper.make_node("Conv", ["mean", "last"], ["y"]),
    ]
    weights = {"w": w, "blocked": blocked, "last": rng.standard_normal((16, 32, 1, 1)).astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "likely",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, "h", "w_"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    width = graphopt.Range(1, 64, likely + 1)
    model = graphopt.compile(proto, threads=2, shapes={"x": ("n", 16, graphopt.Range(1, 64, likely), width)})
    assert model.plan is not None
    wholes = [k.config["whole"] for k in model.plan.kernels.values() if k.config and "whole" in k.config]
    assert wholes == [likely, likely, likely], [k.template for k in model.plan.kernels.values()]
    oracle = onnx.reference.ReferenceEvaluator(proto)
    for height in (2, 3, 7):
        for columns in (likely, likely + 1, likely + 2, 17):
            if columns < 2:
                continue
            x = rng.standard_normal((2, 16, height, columns)).astype(np.float32)
            (want,) = oracle.run(None, {"x": x})
            np.testing.assert_allclose(model.run({"x": x})["y"], want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_both_results_of_a_pointwise_layer_see_their_own_operands() -> None:
    """Operands with a plane of their own, of single values, and of one value a row: the last keeps rows apart."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((16, 16, 1, 1)).astype(np.float32)
    names = {"full": ["n", 16, "h", "w_"], "single": ["n", 16, 1, 1], "rows": ["n", 16, "h", 1]}
    nodes = []
    for name in names:
        nodes += [
            helper.make_node("Conv", ["x", "w"], [f"c_{name}"]),
            helper.make_node("Mul", [f"c_{name}", name], [f"y_{name}"]),
        ]
    graph = helper.make_graph(
        nodes,
        "operands",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in {"x": names["full"], **names}.items()],
        [helper.make_tensor_value_info(f"y_{n}", TensorProto.FLOAT, None) for n in names],
        [numpy_helper.from_array(w, "w")],
    )
    model = graphopt.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), threads=2)
    for n, h, width in ((1, 7, 5), (2, 1, 13), (3, 12, 1)):
        sizes = {"n": n, "h": h, "w_": width}
        feed = {
            name: rng.standard_normal([sizes.get(str(d), d) for d in shape]).astype(np.float32)
            for name, shape in {"x": names["full"], **names}.items()
        }
        c = np.einsum("nchw,oc->nohw", feed["x"].astype(np.float64), w[:, :, 0, 0].astype(np.float64))
        result = model.run(feed)
        for name in names:
            np.testing.assert_allclose(result[f"y_{name}"], c * feed[name], rtol=1e-4, atol=1e-4)


def test_the_oracle_is_a_convolution() -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((2, 4, 9, 7)), rng.standard_normal((6, 2, 3, 2))
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2], group=2)
    expected = onnx.reference.ReferenceEvaluator(node).run(None, {"x": x, "w": w})[0]
    np.testing.assert_allclose(convolved(x, w, (1, 0, 2, 1), (2, 1), (1, 2), 2), expected, rtol=1e-9)

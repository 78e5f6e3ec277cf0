"""Operators on values that are no plain numbers give on ARM, which has instructions of its own for them, what they give on x86."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import graphopt
from tests.support import qemu
from tests.support.run_node import Array, model_with, node

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable())),
]

VALUES: npt.NDArray[np.float32] = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38, 100, -100, 1, -1, 0.5, -2.5],
    np.float32,
)

ELEMENTWISE: tuple[onnx.NodeProto, ...] = (
    node("Relu", "x", "relu"),
    node("LeakyRelu", "x", "leaky", alpha=0.1),
    node("LeakyRelu", "x", "leaky_0", alpha=0.0),
    node("LeakyRelu", "x", "leaky_2", alpha=2.0),
    node("Clip", "x low high", "clip"),
    node("Clip", "x nan high", "clip_by_nan"),
    node("Elu", "x", "elu", alpha=1.5),
    node("Selu", "x", "selu"),
    node("Celu", "x", "celu", alpha=0.5),
    node("Celu", "x", "celu_below", alpha=-2.0),
    node("HardSwish", "x", "hard_swish"),
    node("HardSigmoid", "x", "hard_sigmoid"),
    node("Sigmoid", "x", "sigmoid"),
    node("Mul", "x sigmoid", "swish"),
    node("Tanh", "x", "tanh"),
    node("Mish", "x", "mish"),
    node("Gelu", "x", "gelu", approximate="tanh"),
    node("Max", "x y", "max"),
    node("Min", "x y", "min"),
)

REDUCTIONS: tuple[onnx.NodeProto, ...] = (
    node("Softmax", "x", "softmax", axis=1),
    node("Softmax", "x", "softmax_0", axis=0),
    node("LogSoftmax", "x", "log_softmax", axis=1),
    node("ReduceMax", "x", "most", keepdims=0),
    node("ReduceMax", "x axis", "most_of_row", keepdims=0),
    node("ReduceMin", "x axis", "least_of_row", keepdims=0),
    node("ReduceLogSumExp", "x axis", "log_sum", keepdims=0),
)

POOLS: tuple[onnx.NodeProto, ...] = (
    node("MaxPool", "x", "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    node("MaxPool", "x", "pool_by_2", kernel_shape=[3, 3], strides=[2, 2]),
    node("Conv", "x weight", "blocked", pads=[0, 0, 0, 0]),
    node("MaxPool", "blocked", "blocked_pool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    node("GlobalMaxPool", "blocked", "blocked_most"),
)

PAIRS: dict[str, Array] = dict(zip("xy", np.stack(np.meshgrid(VALUES, VALUES))))
ROWS: dict[str, Array] = {"x": np.stack([np.roll(np.tile(np.delete(VALUES, skip), 3), skip)[:47] for skip in range(3)])}


def _planes() -> dict[str, Array]:
    x = np.random.default_rng(0).normal(size=(1, 16, 12, 12)).astype(np.float32)
    for channel, value in enumerate(VALUES[:12]):
        x[0, channel, channel, 11 - channel] = value
    return {"x": x}


CASES: dict[str, tuple[tuple[onnx.NodeProto, ...], dict[str, Array], dict[str, Array]]] = {
    "elementwise": (
        ELEMENTWISE, PAIRS, {"low": np.float32(0), "high": np.float32(6), "nan": np.float32("nan")}
    ),
    "reductions": (REDUCTIONS, ROWS, {"axis": np.array([1], np.int64)}),
    "pools": (POOLS, _planes(), {"weight": np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1)}),
}  # fmt: skip


WINDOWS: tuple[onnx.NodeProto, ...] = (
    node("Conv", "x square", "data"),
    node("Conv", "data w3 bias", "three", group=16, pads=[1, 1, 1, 1]),
    node("HardSwish", "three", "three_hard_swish"),
    node("Conv", "data w3", "three_by_2", group=16, pads=[0, 1, 1, 0], strides=[2, 2]),
    node("Conv", "data w5 bias", "five", group=16, pads=[2, 2, 2, 2]),
    node("Clip", "five low high", "five_clip"),
    node("Conv", "data w5 bias", "five_by_2", group=16, pads=[1, 2, 2, 1], strides=[2, 2]),
    node("Sigmoid", "five_by_2", "five_sigmoid"),
    node("MaxPool", "data", "largest", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    node("AveragePool", "data", "average", kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1),
    node("AveragePool", "data", "average_inside", kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
)
"""Of blocks of channels, none of them special: every form of a tile, with and without something behind it."""


def _weights() -> dict[str, Array]:
    rng = np.random.default_rng(1)
    shapes = {"square": (16, 3, 1, 1), "w3": (16, 1, 3, 3), "w5": (16, 1, 5, 5), "bias": (16,)}
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {**drawn, "low": np.float32(0), "high": np.float32(6)}


@pytest.mark.parametrize(("height", "width"), [(19, 29), (3, 5), (14, 14)])
@pytest.mark.few(1)
def test_windows(height: int, width: int) -> None:
    feed = {"x": np.random.default_rng(2).normal(size=(2, 3, height, width)).astype(np.float32)}
    _require_values_of_x86(WINDOWS, feed, _weights(), "arm:neoverse-n1", "neoverse-n1", 1e-5, 1e-5)


NESTS: tuple[onnx.NodeProto, ...] = (
    node("Conv", "x square", "data"),
    node("Mul", "data factor", "scaled"),
    node("Add", "scaled data", "added"),
    node("Resize", "data _ twice", "larger", mode="nearest", nearest_mode="floor"),
    node("Transpose", "x", "turned", perm=[0, 2, 1, 3]),
    node("Mul", "x rows", "by_row"),
    node("Sub", "by_row column", "by_column"),
)
"""Loops over several axes of which operands lack some."""


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("height", "width"), [(24, 40), (3, 2)])
def test_nests(height: int, width: int, threads: int) -> None:
    rng = np.random.default_rng(3)
    feed = {"x": rng.normal(size=(1, 3, height, width)).astype(np.float32)}
    shapes = {"square": (32, 3, 1, 1), "factor": (1, 32, 1, 1), "rows": (3, height, 1), "column": (height, width)}
    consts = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    consts["twice"] = np.array([1, 1, 2, 2], np.float32)
    _require_values_of_x86(NESTS, feed, consts, "arm:neoverse-n1", "neoverse-n1", 1e-6, 1e-6, threads)


@pytest.mark.parametrize(("target", "cpu"), [("arm", "cortex-a53"), ("arm:cortex-a76", "cortex-a76")])
@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_x86(case: str, target: str, cpu: str) -> None:
    nodes, feed, consts = CASES[case]
    _require_values_of_x86(nodes, feed, consts, target, cpu, 1e-6, 3e-45)


def _require_values_of_x86(
    nodes: tuple[onnx.NodeProto, ...],
    feed: dict[str, Array],
    consts: dict[str, Array],
    target: str,
    cpu: str,
    rtol: float,
    atol: float,
    threads: int = 1,
) -> None:
    model = model_with(nodes, feed, consts, opset=22)
    want = graphopt.compile(model, "x86", threads=1).run(feed)
    compiled = graphopt.compile(model, target, threads=threads)
    assert compiled.built is not None
    results = qemu.run_under_qemu(
        compiled.built.library_bytes(), [feed[spec.name] for spec in compiled.inputs],
        [(want[spec.name].shape, want[spec.name].dtype) for spec in compiled.outputs],
        cpu=cpu, constants=compiled.constants, threads=threads,
    )  # fmt: skip
    for spec, got in zip(compiled.outputs, results, strict=True):
        np.testing.assert_allclose(got, want[spec.name], rtol, atol, err_msg=spec.name)

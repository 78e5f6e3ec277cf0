"""Bytes in channel blocks on ARM: what convolutions, residuals and pools store there, against numpy and the same model on x86.

Scales are powers of two where numpy is asked, so that nothing is rounded but steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from tests.support import qemu
from tests.support.run_node import node

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable())),
]
Array = npt.NDArray[Any]
CORES = [
    pytest.param("arm:neoverse-n1", "neoverse-n1", id="dotprod"),
    pytest.param("arm:cortex-a72", "cortex-a72", id="no-dotprod", marks=pytest.mark.slow),
    pytest.param("arm:cortex-a53", "cortex-a53", id="in-order", marks=pytest.mark.slow),
]
HEIGHT, WIDTH = 7, 9  # tiles of several widths, and odd borders of a pool


def _model(nodes: list[onnx.NodeProto], x: Array, constants: dict[str, Any], dtype: Any, shape: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _run(model: onnx.ModelProto, x: Array, like: Array, target: str, cpu: str) -> Array:
    compiled = graphopt.compile(model, target, threads=1)
    (got,) = qemu.run_under_qemu(
        compiled.built.library_bytes(), [x], [(like.shape, like.dtype)], cpu=cpu, constants=compiled.constants
    )
    return got


def _net(
    channels: int, dtype: Any, zero: int, step: float, *, relu: bool, residual: bool, pool: bool, other: float = 0.0
) -> tuple[onnx.ModelProto, Array, Array]:
    """A convolution whose result is quantized in blocks; then what is asked for; then a convolution by one, which shows the bytes.

    Args:
        channels: of everything.
        dtype: of the bytes in blocks.
        zero: their zero point.
        step: their scale.
        relu: whether a Relu comes before they are made.
        residual: whether the data are added before.
        pool: whether they go through a MaxPool that has padding.
        other: the scale behind the pool; 0 for the same.

    Returns:
        the model, its input, and the result by numpy.
    """
    rng = np.random.default_rng(channels)
    x = rng.integers(0, 256, (1, channels, HEIGHT, WIDTH)).astype(np.uint8)
    w = rng.integers(-128, 128, (channels, channels, 1, 1)).astype(np.int8)
    few = channels // 2
    w[:few] = 0
    w[np.arange(few), np.arange(few)] = rng.integers(-3, 4, (few, 1, 1))  # half of the channels stay around zero
    one, last = np.float32(1), other or step
    constants: dict[str, Any] = {
        "w": w, "one": one, "zx": np.uint8(100), "step": np.float32(step), "last": np.float32(last),
        "zero": np.array(zero, dtype), "eye": np.eye(channels, dtype=np.int8)[:, :, None, None],
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", "x one zx", "dx"),
        node("DequantizeLinear", "w one", "dw"),
        node("Conv", "dx dw", "sums"),
        node("DequantizeLinear", "eye one", "deye"),
    ]
    sums = np.einsum("nchw,oc->nohw", x.astype(np.int64) - 100, w[:, :, 0, 0].astype(np.int64))
    name = "sums"
    if residual:
        # rounded between, as exporters put it
        nodes += [node("QuantizeLinear", "sums step zero", "qs"), node("DequantizeLinear", "qs step zero", "ds")]
        nodes.append(node("Add", "ds dx", name := "added"))
        info = np.iinfo(dtype)
        rounded = np.clip(np.rint(sums / step) + zero, info.min, info.max)
        sums = (rounded - zero) * step + (x.astype(np.int64) - 100)
    if relu:
        nodes.append(node("Relu", name, "positive"))
        name, sums = "positive", np.maximum(sums, 0)
    info = np.iinfo(dtype)
    want = np.clip(np.rint(sums / step) + zero, info.min, info.max)
    nodes += [node("QuantizeLinear", f"{name} step zero", "q"), node("DequantizeLinear", "q step zero", name := "d")]
    if pool:
        nodes += [
            node("MaxPool", name, "pooled", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("QuantizeLinear", "pooled last zero", "qp"),
            node("DequantizeLinear", "qp last zero", name := "dp"),
        ]
        padded = np.pad(want, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        steps = windows[:, :, ::2, ::2].max(axis=(4, 5)) - zero
        want = np.clip(np.rint(steps * step / last) + zero, info.min, info.max)
    # two layers of one, so that the first reads and writes blocks
    nodes += [node("Conv", f"{name} deye", "c"), node("QuantizeLinear", f"c {'last' if pool else 'step'} zero", "y")]
    want = want.astype(dtype)
    return _model(nodes, x, constants, dtype, want.shape), x, want


@pytest.mark.parametrize(("target", "cpu"), CORES)
@pytest.mark.parametrize("channels", [16, *(pytest.param(n, marks=pytest.mark.slow) for n in (20, 24, 48, 6))])
@pytest.mark.parametrize(
    ("dtype", "zero", "step"),
    [
        (np.uint8, 0, 2.0),
        (np.uint8, 250, 2.0**-9),
        (np.uint8, 113, 64.0),
        (np.int8, -128, 2.0),
        (np.int8, -1, 2.0**-22),
    ],
)
def test_sums(channels: int, dtype: Any, zero: int, step: float, target: str, cpu: str) -> None:
    """Ties, and steps so small that sums are beyond 16 and 32 bits of them."""
    for relu in (False, True):
        model, x, want = _net(channels, dtype, zero, step, relu=relu, residual=False, pool=False)
        assert len(np.unique(want)) > 1
        np.testing.assert_array_equal(_run(model, x, want, target, cpu), want)


@pytest.mark.parametrize(("target", "cpu"), CORES)
@pytest.mark.parametrize("channels", [16, pytest.param(24, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("dtype", "zero", "step"), [(np.uint8, 128, 32.0), (np.int8, -7, 2.0), (np.int8, 0, 128.0), (np.uint8, 0, 16.0)]
)
def test_residuals_and_pools(channels: int, dtype: Any, zero: int, step: float, target: str, cpu: str) -> None:
    """Bytes that are added to sums, and compared in a window with padding, where the scale behind is the same or another one."""
    for other in (0.0, 2 * step):
        model, x, want = _net(channels, dtype, zero, step, relu=zero == 0, residual=True, pool=True, other=other)
        assert len(np.unique(want)) > 1
        np.testing.assert_array_equal(_run(model, x, want, target, cpu), want)


@pytest.mark.parametrize(("target", "cpu"), CORES)
def test_bits_are_those_of_x86(target: str, cpu: str) -> None:
    """With scales that round in every step."""
    for other in (0.0, 1.7):
        model, x, want = _net(48, np.uint8, 77, 1.3, relu=False, residual=True, pool=True, other=other)
        want = graphopt.compile(model, "x86-64-v3", threads=1).run({"x": x})["y"]
        np.testing.assert_array_equal(_run(model, x, want, target, cpu), want)


@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.7), (0.5, 0.7, 0.7), (0.7, 0.5, 0.7)])
@pytest.mark.parametrize(("target", "cpu"), CORES)
def test_pools_of_one_shape_share_no_kernel_that_depends_on_scales(
    target: str, cpu: str, scales: tuple[float, ...]
) -> None:
    """Equal scales are what a kernel that compares bytes is made of, and equal numbers need not be one tensor."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 16, HEIGHT, WIDTH)).astype(np.uint8)
    eye = np.eye(16, dtype=np.int8)[:, :, None, None]
    constants: dict[str, Any] = {"eye": eye, "one": np.float32(1), "zero": np.uint8(9), "s0": np.float32(0.5)}
    nodes = [
        node("DequantizeLinear", "x s0 zero", "dx"),
        node("DequantizeLinear", "eye one", "deye"),
        node("Conv", "dx deye", "c"),
        node("QuantizeLinear", "c s0 zero", "q0"),
        node("DequantizeLinear", "q0 s0 zero", "d0"),
    ]
    for i, scale in enumerate(scales, start=1):
        constants[f"s{i}"] = np.float32(scale)
        nodes += [
            node("MaxPool", f"d{i - 1}", f"p{i}", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("QuantizeLinear", f"p{i} s{i} zero", f"q{i}"),
            node("DequantizeLinear", f"q{i} s{i} zero", f"d{i}"),
        ]
    last = len(scales)
    nodes += [node("Conv", f"d{last} deye", "e"), node("QuantizeLinear", f"e s{last} zero", "y")]
    model = _model(nodes, x, constants, np.uint8, x.shape)
    want = graphopt.compile(model, "x86-64-v3", threads=1).run({"x": x})["y"]
    assert len(np.unique(want)) > 1
    np.testing.assert_array_equal(_run(model, x, want, target, cpu), want)


@pytest.mark.parametrize(("target", "cpu"), CORES)
@pytest.mark.parametrize(("dtype", "zero"), [(np.uint8, 0), (np.uint8, 200), (np.int8, -100), (np.int8, 127)])
def test_any_float(dtype: Any, zero: int, target: str, cpu: str) -> None:
    """What isn't made by a product: NaN, infinities, zeros of both signs, ties, numbers far beyond the range."""
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45, 0.25, 0.75, -0.25, -0.75, 2.0**31, -(2.0**33)]
    x = np.array([*special, *np.arange(-300, 300) / 4], np.float32)[None]
    nodes = [node("QuantizeLinear", "x step zero", "y")]
    constants = {"step": np.float32(0.5), "zero": np.array(zero, dtype)}
    info = np.iinfo(dtype)
    steps = np.where(np.isnan(x), -np.inf, x).astype(np.float64) / 0.5
    want = np.clip(np.rint(steps) + zero, info.min, info.max).astype(dtype)
    model = _model(nodes, x, constants, dtype, x.shape)
    np.testing.assert_array_equal(_run(model, x, want, target, cpu), want)


@pytest.mark.parametrize(("target", "cpu"), CORES)
@pytest.mark.parametrize(("dtype", "zero"), [(np.uint8, 0), (np.uint8, 255), (np.int8, -128), (np.int8, 5)])
def test_any_byte(dtype: Any, zero: int, target: str, cpu: str) -> None:
    """Every byte as a number."""
    info = np.iinfo(dtype)
    x = np.arange(info.min, info.max + 1).astype(dtype)[None]
    nodes = [node("DequantizeLinear", "x step zero", "y")]
    constants = {"step": np.float32(0.3), "zero": np.array(zero, dtype)}
    want = (x.astype(np.float32) - np.float32(zero)) * np.float32(0.3)
    model = _model(nodes, x, constants, np.float32, x.shape)
    got = _run(model, x, want, target, cpu)
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))

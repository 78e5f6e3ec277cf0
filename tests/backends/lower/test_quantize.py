"""Quantised operators: results are integers and must be exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from graphopt.errors import UserError
from tests.support.run_node import check, model_with, node, run

Array = npt.NDArray[Any]


def ints(*shape: int, dtype: str = "uint8", seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_round_half_even_and_saturate(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = np.array([[0, 0.5, 1.5, -0.5, 2.5, 1e9, -1e9, np.inf, -np.inf, info.max * 1.0, 7]], np.float32)
    zero = np.array(3, dtype)
    want = np.clip(np.round(x / np.float32(0.5)) + 3, info.min, info.max).astype(dtype)
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")]
    back = (want.astype(np.float64) - 3) * 0.5
    check(nodes, {"x": x}, {"s": np.array(0.5, np.float32), "z": zero}, {"q": want, "d": back.astype(np.float32)})


def test_per_axis_and_blocked() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32) * 50
    scale = np.array([0.5, 1, 2, 0.25], np.float32)
    zero = np.array([0, 3, -4, 10], np.int8)
    blocks = (np.arange(24).reshape(3, 4, 2) % 5 + 1).astype(np.float32)
    per = lambda v: v[None, :, None]  # noqa: E731
    axis = np.clip(np.round(x / per(scale)) + per(zero), -128, 127)
    block = np.clip(np.round(x / np.repeat(blocks, 3, 2)), 0, 255)
    nodes = [node("QuantizeLinear", "x s z", "a", axis=1), node("QuantizeLinear", "x b", "k", axis=2, block_size=3)]
    nodes += [
        node("DequantizeLinear", "a s z", "da", axis=1),
        node("DequantizeLinear", "k b", "dk", axis=-1, block_size=3),
    ]
    want = {
        "a": axis.astype(np.int8), "k": block.astype(np.uint8), "da": ((axis - per(zero)) * per(scale)).astype(np.float32),
        "dk": (block * np.repeat(blocks, 3, 2)).astype(np.float32),
    }  # fmt: skip
    check(nodes, {"x": x}, {"s": scale, "z": zero, "b": blocks}, want)


def test_dequantize_int32_and_dynamic() -> None:
    i = np.array([-(2**31), 2**31 - 1, 12345, 0], np.int32)
    want = (i.astype(np.float32) * np.float32(0.01)).astype(np.float32)
    check([node("DequantizeLinear", "i s", "y")], {"i": i}, {"s": np.array(0.01, np.float32)}, {"y": want})
    x = np.array([0, 2, -3, -2.5, 1.34, 0.5], np.float32)
    check([node("DynamicQuantizeLinear", "x", "y s z")], {"x": x})


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_exact_products(kind: str) -> None:
    a, b = ints(3, 5, 33, dtype="uint8"), ints(33, 7, dtype=kind, seed=1)
    az, bz = np.array(200, np.uint8), ints(7, dtype=kind, seed=2)
    want = np.matmul(a.astype(np.int64) - 200, b.astype(np.int64) - bz)
    nodes = [node("MatMulInteger", "a b az bz", "y"), node("MatMulInteger", "a b", "n")]
    check(
        nodes,
        {"a": a, "b": b},
        {"az": az, "bz": bz},
        {"y": want.astype(np.int32), "n": np.matmul(a.astype(np.int32), b.astype(np.int32))},
    )


def test_qlinear_matmul() -> None:
    a, b = ints(4, 33), ints(33, 6, seed=1)
    consts = {"as": np.array(0.02, np.float32), "az": np.array(120, np.uint8), "bs": np.linspace(0.01, 0.05, 6).astype(np.float32),
              "bz": ints(6, seed=2), "ys": np.array(0.3, np.float32), "yz": np.array(99, np.uint8)}  # fmt: skip
    total = np.matmul(a.astype(np.int64) - 120, b.astype(np.int64) - consts["bz"])
    want = np.clip(np.round(total.astype(np.float32) * (consts["as"] * consts["bs"] / consts["ys"])) + 99, 0, 255)
    check([node("QLinearMatMul", "a as az b bs bz ys yz", "y")], {"a": a, "b": b}, consts, {"y": want.astype(np.uint8)})


def _conv(x: Array, w: Array, pad: int) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w)


def test_quantised_convolutions() -> None:
    x, w = ints(2, 3, 7, 5), ints(4, 3, 3, 3, dtype="int8", seed=1)
    wz, bias = np.array([1, -3, 0, 20], np.int8), np.array([100, -200, 0, 5], np.int32)
    total = _conv(x.astype(np.int64) - 11, w.astype(np.int64) - wz[:, None, None, None], 1)
    ws = np.array([0.01, 0.02, 0.03, 0.002], np.float32)
    consts = {"xs": np.array(0.05, np.float32), "xz": np.array(11, np.uint8), "w": w, "ws": ws, "wz": wz,
              "ys": np.array(0.7, np.float32), "yz": np.array(128, np.uint8), "b": bias}  # fmt: skip
    factor = (consts["xs"] * ws / consts["ys"])[:, None, None]
    want = np.clip(np.round((total + bias[:, None, None]).astype(np.float32) * factor) + 128, 0, 255).astype(np.uint8)
    nodes = [
        node("ConvInteger", "x w xz wz", "i", pads=[1] * 4),
        node("QLinearConv", "x xs xz w ws wz ys yz b", "q", pads=[1] * 4),
    ]
    check(nodes, {"x": x}, consts, {"i": total.astype(np.int32), "q": want})


def test_narrow_types_are_refused() -> None:
    x = np.ones((2, 4), np.float32)
    for code in (22, 17):  # int4, float8
        model = model_with(
            [node("QuantizeLinear", "x s", "y", output_dtype=code)], {"x": x}, {"s": np.array(1, np.float32)}
        )
        with pytest.raises(UserError):
            run(model, {"x": x})


def test_integers_have_no_negative_zero() -> None:
    """Quantized and dequantized in one kernel, too: what rounds to zero from below is 0, whose inverse is positive."""
    x = np.array([-0.3, 0.2, -0.0, -2.0], np.float32)
    nodes = [
        node("QuantizeLinear", "x one zero", "q"),
        node("DequantizeLinear", "q one zero", "d"),
        node("Div", "one d", "y"),
    ]
    model = model_with(nodes, {"x": x}, {"one": np.float32(1), "zero": np.int8(0)})
    del model.graph.output[:2]
    np.testing.assert_array_equal(run(model, {"x": x})["y"], np.array([np.inf, np.inf, np.inf, -0.5], np.float32))


@pytest.mark.parametrize("scale", [3e38, -3e38, np.inf, 1e-38])
def test_what_overflows_stays_infinite_where_it_is_added(scale: float) -> None:
    x, r = np.array([-128, 127, 0, 1], np.int8), np.array([1, -2, 0.5, 3], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(np.float32) * np.float32(scale) + r
    nodes = [node("DequantizeLinear", "x s", "d"), node("Add", "d r", "y")]
    model = model_with(nodes, {"x": x, "r": r}, {"s": np.float32(scale)})
    del model.graph.output[0]
    np.testing.assert_array_equal(run(model, {"x": x, "r": r})["y"], want)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_quotients_near_ties_are_those_of_a_division(dtype: str) -> None:
    """Whether a division is left, or a product with the inverse is corrected."""
    rng = np.random.default_rng(5)
    scales = [*np.exp(rng.uniform(-12, 3, 6)), 0.1, 2.0**-7, 1.0000001, 1.9999999, 1.001e-30, 9.9e-31, 9.9e29, 3e-39]
    info = np.iinfo(dtype)
    ties = np.concatenate([np.arange(-3, 260), rng.integers(info.min, int(info.max) + 1, 200)]).astype(np.float64) + 0.5
    for scale in np.array(scales, np.float32):
        near = (ties * np.float64(scale)).astype(np.float32).view(np.int32)[:, None] + np.arange(-3, 4)
        x = np.concatenate(
            [near.astype(np.int32).view(np.float32).reshape(-1), np.array([np.inf, -np.inf, 0], np.float32)]
        )
        with np.errstate(over="ignore"):
            want = np.clip(np.round(x / scale) + 1, info.min, info.max).astype(dtype)
        model = model_with([node("QuantizeLinear", "x s z", "y")], {"x": x}, {"s": scale, "z": np.array(1, dtype)})
        np.testing.assert_array_equal(run(model, {"x": x})["y"], want, err_msg=str(scale))

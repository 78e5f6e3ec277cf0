"""Sums of integers that are read as floats: the same numbers from products of dequantized operands, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.optimizing import export_onnx, optimize
from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, model_of
from tests.support.ort import run_ort

RNG = np.random.default_rng(0)
NAME = "lower-integer-products"
Array = np.ndarray[Any, Any]


def integers(dtype: Any, *shape: int) -> Array:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def optimized(graph: Any, feeds: dict[str, Array], expected: list[str]) -> Array:
    """What the rewritten graph gives."""
    after = optimize(graph, passes=[NAME], verify_each=True, for_export=False)
    assert [n.op for n in after.nodes] == expected
    return run_ort(export_onnx(after), feeds)[0]


@pytest.mark.parametrize("w_zeros", ["none", "one", "per column"])
@pytest.mark.parametrize(("x_type", "w_type"), [("uint8", np.int8), ("int8", np.uint8)])
@pytest.mark.parametrize("shape", [(2, 5, 300), (300,)], ids=str)
def test_products(shape: tuple[int, ...], x_type: str, w_type: Any, w_zeros: str) -> None:
    x, w = integers(np.dtype(x_type), *shape), integers(w_type, 300, 7)
    zeros = {"none": None, "one": np.array(9, w_type), "per column": integers(w_type, 7)}[w_zeros]
    given = {"wz": zeros} if zeros is not None else {}
    text = f"i = MatMulInteger(x, w, z{', wz' if given else ''})\ny = Cast<to=1>(i)"
    graph = graph_of({"x": f"{x_type}[{','.join(map(str, shape))}]", "z": f"{x_type}[1]"}, text, w=w, **given)
    chain = ["DequantizeLinear", "DequantizeLinear", "MatMul", "Reshape", "Cast", "Sub", "Mul", "Sub"]
    for zero in (np.iinfo(x_type).min, np.iinfo(x_type).max, 77):
        want = (x.astype(np.int64) - int(zero)) @ (
            w.astype(np.int64) - (0 if zeros is None else zeros.astype(np.int64))
        )
        got = optimized(graph, {"x": x, "z": np.array([zero], x_type)}, chain)
        np.testing.assert_array_equal(got, want.astype(np.float32))


def test_sums_of_a_thousand_products_are_rounded_once() -> None:
    """Without the middle as the centre the first term alone would pass 2^24, and be rounded twice."""
    x, w = RNG.integers(200, 256, (9, 1000)).astype(np.uint8), RNG.integers(100, 128, (1000, 50)).astype(np.int8)
    graph = graph_of({"x": "uint8[9,1000]", "z": "uint8[]"}, "i = MatMulInteger(x, w, z)\ny = Cast<to=1>(i)", w=w)
    for zero in (1, 3, 255):
        after = optimize(graph, passes=[NAME], for_export=False)
        got = run_ort(export_onnx(after), {"x": x, "z": np.asarray(zero, np.uint8)})[0]
        np.testing.assert_array_equal(got, ((x.astype(np.int64) - zero) @ w.astype(np.int64)).astype(np.float32))


def test_a_known_zero_point_needs_no_correction() -> None:
    x, w = integers(np.uint8, 5, 30), integers(np.int8, 30, 7)
    graph = graph_of({"x": "uint8[5,30]"}, "i = MatMulInteger(x, w, z)\ny = Cast<to=1>(i)", w=w, z=np.uint8(200))
    got = optimized(graph, {"x": x}, ["DequantizeLinear", "DequantizeLinear", "MatMul"])
    np.testing.assert_array_equal(got, (x.astype(np.int64) - 200) @ w.astype(np.int64))
    graph = graph_of({"x": "uint8[5,30]"}, "i = MatMulInteger(x, w)\ny = Cast<to=1>(i)", w=w)
    got = optimized(graph, {"x": x}, ["DequantizeLinear", "DequantizeLinear", "MatMul"])
    np.testing.assert_array_equal(got, x.astype(np.int64) @ w.astype(np.int64))


@pytest.mark.parametrize(
    ("attrs", "pads"),
    [("<pads=[1,0,2,1]>", (1, 0, 2, 1)), ("", (0, 0, 0, 0)), ('<auto_pad="SAME_UPPER">', (1, 0, 1, 1)),
     ("<pads=[1,0,2,1],group=2>", (1, 0, 2, 1))],
)  # fmt: skip
@pytest.mark.parametrize("known", [False, True])
def test_convolutions(attrs: str, pads: tuple[int, ...], known: bool) -> None:
    groups = 2 if "group" in attrs else 1
    x, w = integers(np.uint8, 2, 4, 6, 5), integers(np.int8, 6, 4 // groups, 3, 2)
    zeros = np.array([0, 1, -5, 127, -128, 3], np.int8)
    inputs = {"x": "uint8[2,4,6,5]", **({} if known else {"z": "uint8[]"})}
    text = f"i = ConvInteger{attrs}(x, w, z, wz)\ny = Cast<to=1>(i)"
    for zero in (0, 255, 100):
        given = {"z": np.uint8(zero)} if known else {}
        graph = graph_of(inputs, text, w=w, wz=zeros, **given)
        padding = ["Reshape", "Pad"] if any(pads) and not known else []
        correction = [] if known else ["Reshape", "Cast", "Sub", "Mul", "Sub"]
        chain = [*padding, "DequantizeLinear", "DequantizeLinear", "Conv", *correction]
        feeds = {"x": x} if known else {"x": x, "z": np.asarray(zero, np.uint8)}
        got = optimized(graph, feeds, chain)
        np.testing.assert_array_equal(got, _sums(x.astype(np.int64) - zero, w - zeros.astype(np.int64)[:, None, None, None],
                                                 pads, groups))  # fmt: skip


def _sums(x: Array, w: Array, pads: tuple[int, ...], groups: int) -> Array:
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))
    parts = zip(np.split(windows, groups, 1), np.split(w, groups))
    return np.concatenate([np.einsum("nchwij,ocij->nohw", a, b) for a, b in parts], 1)


def test_what_stays() -> None:
    x = {"x": "uint8[5,30]", "z": "uint8[]"}
    w = integers(np.int8, 30, 7)
    assert_refuses(graph_of(x, "i = MatMulInteger(x, w, z)\ny = Cast<to=11>(i)", "y:double", w=w), NAME, "float32")
    both = graph_of(x, "i = MatMulInteger(x, w, z)\ny = Cast<to=1>(i)", "y i:int32", w=w)
    assert_fires(both, NAME, ["MatMulInteger", "Cast"])
    rows = graph_of({"x": "uint8[5,30]", "z": "uint8[5]"}, "i = MatMulInteger(x, w, z)\ny = Cast<to=1>(i)", w=w)
    assert [n.op for n in optimize(rows, passes=[NAME], for_export=False).nodes] == ["MatMulInteger", "Cast"]
    stack = graph_of(x, "i = MatMulInteger(x, w, z)\ny = Cast<to=1>(i)", w=integers(np.int8, 2, 30, 7))
    assert_refuses(stack, NAME, "rank 2")


@pytest.mark.parametrize("symbolic", [False, True])
def test_dynamic_quantization_runs_in_integers(symbolic: bool) -> None:
    """The whole pattern, compiled: one step of the data's rounding apart at most, where two processors round a scale otherwise."""
    text = """
        q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, w, z)
        f = Cast<to=1>(i)
        t = Mul(s, ws)
        m = Mul(f, t)
        y = Add(m, b)
    """
    w, scales, bias = integers(np.int8, 96, 40), RNG.uniform(0.01, 0.02, 40).astype(np.float32), np.ones(40, np.float32)
    rows = "N" if symbolic else "9"
    model = model_of({"x": f"float[{rows},96]"}, text, w=w, ws=scales, b=bias)
    x = (RNG.standard_normal((9, 96)) * 3 + 2).astype(np.float32)
    compiled = graphopt.compile(model, "x86-64-v3", threads=1)
    assert compiled.program is not None
    if not symbolic:
        assert any("vpmaddwd" in str(k.config) for k in compiled.program.kernels)
    least, most = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = np.float32((np.float32(most) - np.float32(least)) / np.float32(255))
    zero = np.rint(np.float32(-least) / step)
    q = np.clip(np.rint(x / step) + zero, 0, 255)
    want = (q - zero) @ w.astype(np.float64) * (step * scales) + bias
    np.testing.assert_allclose(compiled.run({"x": x})["y"], want, rtol=1e-5, atol=1e-4)

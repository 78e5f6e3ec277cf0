"""Convolutions and matrix products of dequantized operands multiply integers, exactly."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.backends.base.element_type import ELEMENT_TYPES, Conversion, computed_type, converted_while_read
from graphopt.backends.cpu.cost import direct
from graphopt.backends.cpu.kernels import conv2d_direct
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.targets.grammar import parse_target
from graphopt.ir.dtypes import DType
from tests.backends.cpu.test_dot_products import _assembly
from tests.support.run_node import node

Array = np.ndarray[Any, Any]
LEVEL = "x86-64-v3"


def _model(nodes: list[onnx.NodeProto], x: Array, constants: dict[str, Array]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def _requantized(sums: Array, sw: Array, sx: np.float32, step: np.float32, zero_point: int) -> Array:
    """The definition: the sum in float32 times one scale in float32, rounded to even, saturated."""
    steps = sums.astype(np.float32) * (sw * (sx / step))
    return np.clip(np.rint(np.maximum(steps, np.float32(0))) + zero_point, 0, 255).astype(np.uint8)


def test_chains_stay_in_integers() -> None:
    """Channels lie side by side between convolutions, and nothing but bytes is stored."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 6, 9, 7)).astype(np.uint8)
    constants: dict[str, Array] = {"s0": np.float32(0.02), "z0": np.uint8(101)}
    nodes, want, zero, sx, channels = [], x, 101, np.float32(0.02), 6
    for i, (outputs, kernel) in enumerate(((32, 1), (48, 3), (16, 1)), 1):
        w = rng.integers(-127, 128, (outputs, channels, kernel, kernel)).astype(np.int8)
        sw = rng.uniform(0.001, 0.003, outputs).astype(np.float32)
        step = np.float32(0.05)
        constants |= {f"w{i}": w, f"sw{i}": sw, f"s{i}": step, f"z{i}": np.uint8(7)}
        nodes += [
            node("DequantizeLinear", f"{'x' if i == 1 else f'q{i - 1}'} s{i - 1} z{i - 1}", f"d{i}"),
            node("DequantizeLinear", f"w{i} sw{i}", f"dw{i}", axis=0),
            node("Conv", f"d{i} dw{i}", f"c{i}", pads=[kernel // 2] * 4),
            node("Relu", f"c{i}", f"r{i}"),
            node("QuantizeLinear", f"r{i} s{i} z{i}", "y" if i == 3 else f"q{i}"),
        ]
        sums = _conv_sums(want.astype(np.int64) - zero, w.astype(np.int64), kernel // 2, 1)
        want = _requantized(sums, sw.reshape(1, -1, 1, 1), sx, step, 7)
        zero, sx, channels = 7, step, outputs
    model = _model(nodes, x, constants)
    got, kernels = _run(model, x)
    assert kernels.count("vpmaddwd") == 3, kernels
    assert want.std() > 1
    np.testing.assert_array_equal(got, want)


def _run(model: onnx.ModelProto, x: Array) -> tuple[Array, str]:
    compiled = graphopt.compile(model, LEVEL, threads=2)
    assert compiled.program is not None
    return compiled.run({"x": x})["y"], " ".join(f"{k.template}:{k.config}" for k in compiled.program.kernels)


def _conv_sums(x: Array, w: Array, pads: int, stride: int) -> Array:
    padded = np.pad(x, ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, w)


def _convolution(
    x: Array,
    w: Array,
    bias: Array | None,
    *,
    x_zero: int,
    w_zero: int,
    pads: int,
    stride: int,
    per_channel: bool = True,
) -> tuple[Array, Array, str]:
    """What the compiled model gives, what it should, and what it was compiled to."""
    rng = np.random.default_rng(1)
    channels = w.shape[0]
    sx, step = np.float32(0.0137), np.float32(0.9)
    sw = rng.uniform(0.002, 0.02, channels if per_channel else 1).astype(np.float32)
    sw, zero = (sw, np.full(channels, w_zero, w.dtype)) if per_channel else (sw[0], np.array(w_zero, w.dtype))
    constants: dict[str, Array] = {
        "sx": sx, "zx": np.array(x_zero, x.dtype), "w": w, "sw": sw, "zw": zero, "sy": step, "zy": np.uint8(3),
    }  # fmt: skip
    axis = {"axis": 0} if per_channel else {}
    nodes = [node("DequantizeLinear", "x sx zx", "dx"), node("DequantizeLinear", "w sw zw", "dw", **axis)]
    if bias is not None:
        constants |= {"b": bias, "sb": (sw * sx).astype(np.float32), "zb": np.zeros(np.shape(sw), np.int32)}
        nodes.append(node("DequantizeLinear", "b sb zb", "db", **axis))
    nodes += [
        node("Conv", "dx dw" + (" db" if bias is not None else ""), "c", pads=[pads] * 4, strides=[stride] * 2),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r sy zy", "y"),
    ]
    sums = _conv_sums(x.astype(np.int64) - x_zero, w.astype(np.int64) - w_zero, pads, stride)
    per_output = np.asarray(sw, np.float32).reshape(1, -1, 1, 1)
    sums = sums if bias is None else sums + bias.astype(np.int64).reshape(1, -1, 1, 1)
    got, kernels = _run(_model(nodes, x, constants), x)
    return got, _requantized(sums, per_output, sx, step, 3), kernels


@pytest.mark.parametrize(("x_dtype", "w_dtype"), [(np.uint8, np.int8), (np.int8, np.uint8)])
@pytest.mark.parametrize(
    ("channels", "outputs", "extent", "kernel", "stride"),
    [(32, 32, 7, 1, 1), (16, 48, 9, 3, 2), (3, 16, 11, 5, 1), (1, 24, 5, 3, 3), (18, 5, 6, 1, 1)],
    ids=str,
)
def test_convolutions_are_exact(
    channels: int, outputs: int, extent: int, kernel: int, stride: int, x_dtype: Any, w_dtype: Any
) -> None:
    rng = np.random.default_rng(0)
    x_info, w_info = np.iinfo(x_dtype), np.iinfo(w_dtype)
    x = rng.integers(x_info.min, x_info.max + 1, (1, channels, extent, extent)).astype(x_dtype)
    w = rng.integers(w_info.min, w_info.max + 1, (outputs, channels, kernel, kernel)).astype(w_dtype)
    bias = rng.integers(-5000, 5000, outputs).astype(np.int32)
    zero = 0 if w_dtype is np.int8 else 131
    got, want, kernels = _convolution(
        x, w, bias, x_zero=int(x_info.min) + 117, w_zero=zero, pads=kernel // 2, stride=stride
    )
    assert "vpmaddwd" in kernels, kernels
    assert want.std() > 1
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("x_zero", "x_value", "w_value"), [(255, 0, -128), (0, 255, -128), (0, 255, 127), (255, 0, 127)]
)
def test_extremes_of_convolutions(x_zero: int, x_value: int, w_value: int) -> None:
    x = np.full((1, 32, 6, 6), x_value, np.uint8)
    w = np.full((16, 32, 3, 3), w_value, np.int8)
    bias = np.full(16, 2**31 - 1 - 32 * 9 * 255 * 128, np.int32)
    for b in (bias, -bias, None):
        got, want, _ = _convolution(x, w, b, x_zero=x_zero, w_zero=0, pads=1, stride=2, per_channel=False)
        np.testing.assert_array_equal(got, want)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 40).map(lambda k: 2 * k), st.integers(1, 40),
    st.sampled_from([np.uint8, np.int8]), st.integers(0, 255), st.booleans(),
)  # fmt: skip
def test_products_are_exact(rows: int, depth: int, columns: int, dtype: Any, zero: int, turned: bool) -> None:
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max + 1, (rows, depth)).astype(dtype)
    w = rng.integers(-128, 128, (depth, columns)).astype(np.int8)
    sx, step = np.float32(0.0137), np.float32(0.9)
    sw = rng.uniform(0.002, 0.02, columns).astype(np.float32)
    x_zero = int(info.min) + zero
    constants: dict[str, Array] = {
        "sx": sx, "zx": np.array(x_zero, dtype), "w": w.T.copy() if turned else w, "sw": sw, "sy": step, "zy": np.uint8(3),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", "x sx zx", "dx"),
        node("DequantizeLinear", "w sw", "dw", axis=0 if turned else 1),
        node("Gemm", "dx dw", "c", transB=1) if turned else node("MatMul", "dx dw", "c"),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r sy zy", "y"),
    ]
    got, kernels = _run(_model(nodes, x, constants), x)
    assert "vpmaddwd" in kernels, kernels
    want = _requantized((x.astype(np.int64) - x_zero) @ w.astype(np.int64), sw, sx, step, 3)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("rows", "columns"), [(1, 333), (3, 250)])
def test_products_with_weights_that_stream(rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (rows, 5000)).astype(np.uint8)
    w = rng.integers(-128, 128, (5000, columns)).astype(np.int8)
    nodes = [
        node("DequantizeLinear", "x s zx", "dx"),
        node("DequantizeLinear", "w s", "dw"),
        node("MatMul", "dx dw", "c"),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r t z", "y"),
    ]
    step = np.float32(4000)
    constants: dict[str, Array] = {"w": w, "s": np.float32(0.5), "zx": np.uint8(100), "t": step, "z": np.uint8(3)}
    got, kernels = _run(_model(nodes, x, constants), x)
    assert re.search("vpmaddwd.*streams=[34]", kernels), kernels
    sums = (x.astype(np.int64) - 100) @ w.astype(np.int64)
    np.testing.assert_array_equal(got, _requantized(sums, np.full(1, 0.5, np.float32), np.float32(0.5), step, 3))


def test_sums_that_may_not_fit_are_not_integers() -> None:
    x, w = np.full((1, 65794), 255, np.uint8), np.full((65794, 8), -128, np.int8)
    nodes = [
        node("DequantizeLinear", "x s", "dx"),
        node("DequantizeLinear", "w s", "dw"),
        node("MatMul", "dx dw", "c"),
        node("QuantizeLinear", "c t z", "y"),
    ]
    constants = {"s": np.float32(1), "t": np.float32(-65794 * 255), "z": np.uint8(0)}
    got, kernels = _run(_model(nodes, x, {"w": w, **constants}), x)
    assert "vpmaddwd" not in kernels
    np.testing.assert_array_equal(got, np.full((1, 8), 128, np.uint8))


@pytest.mark.parametrize("stored", [DType.i8, DType.i16])
@pytest.mark.parametrize(
    ("target", "word", "register"),
    [("x86-64-v3", "vpmaddwd", "ymm"), ("x86-64-v4", "vpmaddwd", "zmm"), ("x86:znver5", "vpdpwssd", "zmm"),
     ("x86:alderlake", "vpdpwssd", "ymm")],
)  # fmt: skip
def test_the_instruction_is_inlined_and_sums_stay_in_registers(
    target: str, word: str, register: str, stored: DType
) -> None:
    caps = parse_target(target, 1).caps
    data = converted_while_read(ELEMENT_TYPES[DType.u8], Conversion(DType.i16, 117))
    weight = ELEMENT_TYPES[DType.i16]
    if stored is DType.i8:
        weight = converted_while_read(ELEMENT_TYPES[DType.i8], Conversion(DType.i16))
    types = KernelTypes(data, weight, computed_type("int32"), computed_type("int32"))
    spec = Conv2dSpec(1, 64, 28, 28, 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16, types=types)
    config = direct.default_config(spec, caps)
    assert config.dot == word
    assembly = _assembly(conv2d_direct.emit(spec, config, name="kernel"), target)
    assert not re.search(rf"call\w*\s+\S*graphopt_{word}", assembly)
    blocks = re.split(r"^\.LBB\w+:.*$|^\tj\w+\t.*$", assembly, flags=re.MULTILINE)
    loops = [block for block in blocks if block.count(word) >= config.accumulators]
    assert loops
    spilled = [line for block in loops for line in block.splitlines() if register in line and "(%rsp)" in line]
    assert not spilled, spilled[:5]


def test_integers_of_16_bits_are_multiplied_as_float32() -> None:
    """Their sums may not fit in 32 bits, and are those of float32: no dot product of integers computes these."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-30000, 30000, s).astype(np.int16) for s in ((4, 32), (32, 24)))
    nodes = [
        node("Cast", "x", "dx", to=TensorProto.FLOAT),
        node("DequantizeLinear", "w s", "dw"),
        node("MatMul", "dx dw", "c"),
        node("QuantizeLinear", "c t z", "y"),
    ]
    step = np.float32(6e7)
    constants: dict[str, Array] = {"w": w, "s": np.float32(1), "t": step, "z": np.uint8(128)}
    model = _model(nodes, x, constants)
    model.opset_import[0].version = 21
    model.ir_version = 10
    got, kernels = _run(model, x)
    assert "vpmaddwd" not in kernels
    want = np.clip(np.rint((x.astype(np.float64) @ w) / step) + 128, 0, 255)
    assert want.std() > 10
    assert np.abs(got - want).max() <= 1


def test_steps_whose_ratio_overflows() -> None:
    x, w = np.full((1, 32), 200, np.uint8), np.zeros((32, 16), np.int8)
    nodes = [
        node("DequantizeLinear", "x s", "dx"),
        node("DequantizeLinear", "w u", "dw"),
        node("MatMul", "dx dw", "c"),
        node("QuantizeLinear", "c t z", "y"),
    ]
    constants: dict[str, Array] = {
        "w": w, "s": np.float32(1e20), "u": np.float32(1e15), "t": np.float32(1e-25), "z": np.uint8(7),
    }  # fmt: skip
    got, _ = _run(_model(nodes, x, constants), x)
    np.testing.assert_array_equal(got, np.full((1, 16), 7, np.uint8))

"""Winograd convolution of integers is exact: against int64, up to the largest sums that fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.backends.base.element_type import ELEMENT_TYPES, Conversion, computed_type, converted_while_read
from graphopt.backends.base.tvm_api import tvm
from graphopt.backends.cpu.cost.winograd import configurations, default_config, fitting_tiles
from graphopt.backends.cpu.kernels import conv2d_winograd as kernel
from graphopt.backends.cpu.kernels import winograd_tile as tile
from graphopt.backends.cpu.kernels.winograd_integers import SUM_BITS, WEIGHT_TRANSFORM, IntegerFiltering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.targets.grammar import parse_target
from graphopt.ir.dtypes import DType
from tests.backends.cpu.test_conv2d_direct import build, caps_of
from tests.backends.cpu.test_conv2d_winograd import SPECS
from tests.backends.cpu.test_dot_products import _assembly
from tests.support.conv_kernels import LEVELS, to_logical, to_physical
from tests.support.run_node import node

Array = np.ndarray[Any, Any]
ZERO = 117


def _of_integers(spec: Conv2dSpec, zero: int = ZERO, bits: int = 26) -> Conv2dSpec:
    data = converted_while_read(ELEMENT_TYPES[DType.u8], Conversion(DType.i16, zero))
    types = KernelTypes(data, ELEMENT_TYPES[DType.i16], computed_type("int32"), computed_type("int32"))
    return replace(spec, types=types, sum_bits=bits)


def _sums(x: Array, w: Array, pads: tuple[int, int, int, int]) -> Array:
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int64), optimize=True)


def _run(spec: Conv2dSpec, level: str, x: Array, w: Array, config: tile.WinogradConfig) -> Array:
    """The outputs as NCHW; they start as a number that no sum has, so that none may be left out."""
    conv = build(kernel.emit(spec, config, name="conv"), level)
    out = tvm.runtime.tensor(np.full(spec.output_shape, 2**31 - 1, np.int32))
    arrays = (to_physical(x, spec.in_block), tile.packing(spec, config)(w))
    conv["conv"](*(tvm.runtime.tensor(a) for a in arrays), out)
    return to_logical(out.numpy(), spec.out_block)


def _config(spec: Conv2dSpec, level: str, m: int) -> tile.WinogradConfig:
    """The first configuration with tiles of that size."""
    return next(c for c in configurations(spec, caps_of(level)) if c.m == m)


@pytest.mark.parametrize("m", [2, 4])
def test_transforms_compute_a_correlation(m: int) -> None:
    rng = np.random.default_rng(0)
    d, g = rng.integers(-255, 256, m + 2), rng.integers(-255, 256, 3)
    filtering = IntegerFiltering(m)
    products = np.array(filtering.input_row(list(d))) * (WEIGHT_TRANSFORM[m] @ g)
    factor = {2: 2, 4: 24}[m]
    assert list(filtering._output_row(list(products))) == list(factor * np.correlate(d, g))


@settings(max_examples=300, deadline=None)
@given(st.integers(), st.sampled_from([2, 4]))
def test_sums_that_fit_survive_the_scale(value: int, m: int) -> None:
    """As the kernel undoes it: modulo 2^32, times the inverse of the odd factor, shifted with the sign."""
    half = 1 << (SUM_BITS[m] - 1)
    value = (value + half) % (2 * half) - half
    factor = {2: 4, 4: 576}[m]
    odd = factor >> (factor & -factor).bit_length() - 1
    wrapped = value * factor * pow(odd, -1, 1 << 32) % (1 << 32)
    signed = wrapped - (1 << 32 if wrapped >= 1 << 31 else 0)
    assert signed >> (factor & -factor).bit_length() - 1 == value


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("w_dtype", [np.int8, np.int16])
def test_transformed_weights_fit_16_bits(m: int, w_dtype: Any) -> None:
    least, most = (-128, 127) if w_dtype is np.int8 else (-255, 255)
    corners = np.array(np.meshgrid(*[[least, most]] * 9)).reshape(9, -1).T.reshape(1, -1, 3, 3)
    both = np.kron(WEIGHT_TRANSFORM[m], WEIGHT_TRANSFORM[m])
    want = both @ corners.reshape(-1, 9).T
    assert np.abs(want).max() < 2**15
    got = IntegerFiltering(m).weight(corners.astype(w_dtype))
    np.testing.assert_array_equal(got[:, :, 0], want)


@pytest.mark.parametrize("level", [level for level in LEVELS if parse_target(level, 1).caps.madd])
@pytest.mark.parametrize("name", SPECS)
def test_against_int64(name: str, level: str) -> None:
    spec = _of_integers(SPECS[name])
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (spec.batch, spec.in_channels, spec.in_height, spec.in_width)).astype(np.uint8)
    w = rng.integers(-128, 128, (spec.out_channels, spec.in_channels, 3, 3)).astype(np.int8)
    want = _sums(x.astype(np.int64) - ZERO, w, spec.pads)
    m = 2 + 2 * (list(SPECS).index(name) % 2)  # each on half of the shapes; the next test has other ones
    np.testing.assert_array_equal(_run(spec, level, x, w, _config(spec, level, m)), want)


@pytest.mark.parametrize("by_group", [False, True])
@pytest.mark.parametrize("m", [2, 4])
def test_configurations(m: int, by_group: bool) -> None:
    spec = _of_integers(Conv2dSpec(1, 16, 13, 10, 144, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 16, 13, 10)).astype(np.uint8)
    w = rng.integers(-128, 128, (144, 16, 3, 3)).astype(np.int8)
    tiles = -(-13 // m) * -(-10 // m)
    config = tile.WinogradConfig(m, 8, 2, 5, tiles if by_group else 5, 3, by_group, dot="vpmaddwd")
    np.testing.assert_array_equal(_run(spec, "x86-64-v3", x, w, config), _sums(x.astype(np.int64) - ZERO, w, spec.pads))


@pytest.mark.parametrize("m", [2, 4])
def test_the_largest_sums(m: int) -> None:
    """Just below 2^25, of both signs, with transformed patches and kernels of the largest numbers."""
    channels = 112
    spec = _of_integers(
        Conv2dSpec(1, channels, 12, 12, 16, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16), zero=0
    )
    rng = np.random.default_rng(0)
    x = np.full((1, channels, 12, 12), 255, np.uint8)
    x[:, :, 6:] = rng.choice([0, 255], (1, channels, 6, 12))
    w = np.full((16, channels, 3, 3), -128, np.int8)
    w[1], w[2:] = 127, rng.choice([-128, 127], (14, channels, 3, 3))
    want = _sums(x, w, spec.pads)
    assert 2**25 > np.abs(want).max() > 0.98 * 2**25
    np.testing.assert_array_equal(_run(spec, "x86-64-v3", x, w, _config(spec, "x86-64-v3", m)), want)


def test_tiles_that_leave_too_few_bits_are_not_taken() -> None:
    spec = SPECS["square"]
    assert fitting_tiles(spec) == [2, 4]
    assert [fitting_tiles(_of_integers(spec, bits=bits)) for bits in (26, 27, 30, 31)] == [[2, 4], [2], [2], []]


def _model(x: Array, w: Array) -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", "x sx zx", "dx"),
        node("DequantizeLinear", "w sw", "dw", axis=0),
        node("Conv", "dx dw", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r sy zy", "y"),
    ]
    scales = np.linspace(0.002, 0.02, len(w)).astype(np.float32)
    constants: dict[str, Array] = {
        "sx": np.float32(0.01), "zx": np.uint8(ZERO), "w": w, "sw": scales, "sy": np.float32(0.5), "zy": np.uint8(3),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("weights", "m", "exact"), [((-40, 40), 4, False), ((100, 128), 2, False), ((-40, 40), 4, True)]
)
def test_in_a_model(weights: tuple[int, int], m: int, exact: bool) -> None:
    """With weights that fill their type the sums need more bits: a smaller tile. ``exact`` doesn't forbid what is exact."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 256, 28, 28)).astype(np.uint8)
    w = rng.integers(*weights, (64, 256, 3, 3)).astype(np.int8)
    model = _model(x, w)
    compiled = graphopt.compile(model, "x86-64-v3", threads=1, exact=exact)
    configs = [k.config for k in compiled.program.kernels if k.template == "conv2d-winograd"]
    assert len(configs) == 1
    assert f"m={m}" in str(configs[0])
    assert "vpmaddwd" in str(configs[0])
    got = compiled.run({"x": x})["y"]
    sums = _sums(x.astype(np.int64) - ZERO, w, (1, 1, 1, 1))
    factor = np.linspace(0.002, 0.02, 64).astype(np.float32) * (np.float32(0.01) / np.float32(0.5))
    steps = np.maximum(sums.astype(np.float32) * factor[:, None, None], np.float32(0))
    want = np.clip(np.rint(steps) + 3, 0, 255)
    assert want.std() > 5
    np.testing.assert_array_equal(got, want)
    (reference,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert np.abs(got.astype(int) - reference.astype(int)).max() <= 1


@pytest.mark.parametrize(("target", "word"), [("x86-64-v3", "vpmaddwd"), ("x86:znver5", "vpdpwssd")])
def test_nothing_is_called_and_sums_stay_in_registers(target: str, word: str) -> None:
    spec = _of_integers(Conv2dSpec(1, 64, 28, 28, 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16))
    config = default_config(spec, parse_target(target, 1).caps)
    assert config.dot == word
    assembly = _assembly(kernel.emit(spec, config, name="kernel"), target)
    assert "graphopt_" not in "".join(line for line in assembly.splitlines() if "call" in line)
    assert "vpmulld" in assembly

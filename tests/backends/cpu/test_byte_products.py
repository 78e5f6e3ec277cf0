"""Products of bytes as they are stored (vpdpbusd): right on any machine, by a function in plain LLVM IR in the instruction's
place; and the instruction itself in the assembly for processors that have it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.backends.base.dot_product import DOT_PRODUCTS, VPDPBUSD
from graphopt.backends.base.element_type import ELEMENT_TYPES, computed_type
from graphopt.backends.cpu.cost import direct
from graphopt.backends.cpu.kernels import conv2d_direct, matmul_packed
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.targets.grammar import parse_target
from graphopt.ir.dtypes import DType
from tests.backends.cpu.test_dot_products import _assembly
from tests.backends.cpu.test_integer_products import LEVEL, _conv_sums, _convolution, _model, _requantized, _run
from tests.support.run_node import node

INT32 = computed_type("int32")
TYPES = KernelTypes(ELEMENT_TYPES[DType.u8], ELEMENT_TYPES[DType.i8], INT32, INT32)


def _in_plain_ir(name: str, lanes: int) -> str:
    """Each byte of a group, the left one without sign and the right one with it, multiplied and added."""
    ints = f"<{lanes} x i32>"

    def bits(value: int) -> str:
        return f"<{', '.join([f'i32 {value}'] * lanes)}>"

    lines, total = [], "%sums"
    for i in range(4):
        lines += [
            f"%l{i} = lshr {ints} %a, {bits(8 * i)}",
            f"%x{i} = and {ints} %l{i}, {bits(255)}",
            f"%r{i} = shl {ints} %b, {bits(24 - 8 * i)}",
            f"%y{i} = ashr {ints} %r{i}, {bits(24)}",
            f"%p{i} = mul {ints} %x{i}, %y{i}",
            f"%s{i} = add {ints} {total}, %p{i}",
        ]
        total = f"%s{i}"
    body = "\n  ".join(lines)
    return f"\ndefine {ints} @{name}({ints} %sums, {ints} %a, {ints} %b) alwaysinline {{\n  {body}\n  ret {ints} {total}\n}}\n"


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dot product on processors that lack it."""
    monkeypatch.setitem(DOT_PRODUCTS, VPDPBUSD.name, replace(VPDPBUSD, available=lambda caps: True, text=_in_plain_ir))


@pytest.mark.parametrize(
    ("channels", "outputs", "extent", "kernel", "stride", "zero", "word"),
    [
        (32, 48, 7, 1, 1, 0, "vpdpbusd"),
        (32, 48, 7, 1, 2, 117, "vpdpbusd"),
        (16, 24, 9, 3, 2, 0, "vpdpbusd"),
        (16, 24, 9, 3, 2, 117, "vpdpbusd"),
        (16, 24, 9, 3, 1, 255, "vpdpbusd"),
        (16, 24, 2, 5, 1, 117, "vpdpbusd"),
        (3, 16, 11, 5, 2, 117, "vpdpbusd"),
        (16, 5, 9, 5, 3, 1, "vpdpbusd"),
        (3, 16, 11, 5, 2, 0, "vpdpbusd"),
        (1, 24, 9, 3, 1, 0, "vpdpbusd"),
        (18, 5, 6, 1, 1, 3, "vpmaddwd"),
        (20, 5, 6, 1, 1, 3, "vpdpbusd"),
    ],
    ids=str,
)
@pytest.mark.few(6)
def test_convolutions_are_exact(
    anywhere: None, channels: int, outputs: int, extent: int, kernel: int, stride: int, zero: int, word: str
) -> None:
    """Padding leaves products out: what the zero point adds to a sum depends on its place near a border."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, channels, extent, extent)).astype(np.uint8)
    w = rng.integers(-128, 128, (outputs, channels, kernel, kernel)).astype(np.int8)
    bias = rng.integers(-5000, 5000, outputs).astype(np.int32)
    got, want, kernels = _convolution(x, w, bias, x_zero=zero, w_zero=0, pads=kernel // 2, stride=stride)
    assert word in kernels, kernels
    assert want.std() > 1
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("channels", "kernel", "zero"), [(32, 1, 0), (16, 3, 0), (16, 3, -128), (3, 3, 100)])
def test_sign_bits_of_signed_data_are_turned(anywhere: None, channels: int, kernel: int, zero: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (1, channels, 7, 7)).astype(np.int8)
    w = rng.integers(-128, 128, (16, channels, kernel, kernel)).astype(np.int8)
    got, want, kernels = _convolution(x, w, None, x_zero=zero, w_zero=0, pads=kernel // 2, stride=1)
    assert "vpdpbusd" in kernels
    np.testing.assert_array_equal(got, want)


def test_other_weights_take_16_bits(anywhere: None) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((1, 32, 7, 7), (16, 32, 1, 1)))
    got, want, kernels = _convolution(x, w, None, x_zero=0, w_zero=131, pads=0, stride=1)
    assert "vpmaddwd" in kernels
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("x_zero", "x_value", "w_value"), [(255, 0, -128), (0, 255, -128), (255, 255, 127), (0, 255, 127)]
)
def test_extremes(anywhere: None, x_zero: int, x_value: int, w_value: int) -> None:
    x, w = np.full((1, 64, 6, 6), x_value, np.uint8), np.full((16, 64, 1, 1), w_value, np.int8)
    bias = np.full(16, 2**31 - 1 - 64 * 255 * 128, np.int32)
    for b in (bias, -bias, None):
        got, want, kernels = _convolution(x, w, b, x_zero=x_zero, w_zero=0, pads=0, stride=1, per_channel=False)
        assert "vpdpbusd" in kernels
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(5, 40, 33), (1, 4, 70), (3, 4000, 250)], ids=str)
def test_products(anywhere: None, rows: int, depth: int, columns: int, turned: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (rows, depth)).astype(np.uint8)
    w = rng.integers(-128, 128, (depth, columns)).astype(np.int8)
    scales = rng.uniform(0.002, 0.02, columns).astype(np.float32)
    nodes = [
        node("DequantizeLinear", "x sx zx", "dx"),
        node("DequantizeLinear", "w sw", "dw", axis=0 if turned else 1),
        node("Gemm", "dx dw", "c", transB=1) if turned else node("MatMul", "dx dw", "c"),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r sy zy", "y"),
    ]
    sx, step = np.float32(0.0137), np.float32(0.9)
    constants: dict[str, Any] = {
        "sx": sx, "zx": np.uint8(117), "w": w.T.copy() if turned else w, "sw": scales, "sy": step, "zy": np.uint8(3),
    }  # fmt: skip
    got, kernels = _run(_model(nodes, x, constants), x)
    assert "vpdpbusd" in kernels, kernels
    want = _requantized((x.astype(np.int64) - 117) @ w.astype(np.int64), scales, sx, step, 3)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("target", "register"), [("x86:znver5", "zmm"), ("x86:sapphirerapids", "zmm"), ("x86:alderlake", "ymm")]
)
@pytest.mark.parametrize("kind", ["1x1", "3x3", "product"])
def test_the_instruction_is_inlined_and_sums_stay_in_registers(target: str, register: str, kind: str) -> None:
    caps = parse_target(target, 1).caps
    if kind == "product":
        product = MatmulSpec(64, 256, 512, TYPES)
        tile = matmul_packed.default_config(product, caps)
        assembly, dot, sums = _assembly(matmul_packed.emit(product, tile, name="kernel"), target), tile.dot, 8
    else:
        side = int(kind[0])
        spec = Conv2dSpec(
            1, 64, 28, 28, 64, (side, side), pads=(side // 2,) * 4, in_block=16, out_block=16, types=TYPES
        )
        config = direct.default_config(spec, caps)
        assembly, dot, sums = (
            _assembly(conv2d_direct.emit(spec, config, name="kernel"), target),
            config.dot,
            config.accumulators,
        )
    assert dot == "vpdpbusd"
    assert not re.search(r"call\w*\s+\S*graphopt_vpdpbusd", assembly)
    blocks = re.split(r"^\.LBB\w+:.*$|^\tj\w+\t.*$", assembly, flags=re.MULTILINE)
    loops = [block for block in blocks if block.count("vpdpbusd") >= sums]
    assert loops
    if register == "ymm":  # with 16 registers LLVM spills some in tiles at a border, whose few steps it writes out
        loops = [max(loops, key=lambda block: block.count("vpdpbusd"))]
    spilled = [line for block in loops for line in block.splitlines() if register in line and "(%rsp)" in line]
    assert not spilled, spilled[:5]


def test_padded_layers_that_differ_in_zero_points_share_a_kernel(anywhere: None) -> None:
    rng = np.random.default_rng(0)
    x = want = rng.integers(0, 256, (1, 16, 9, 8)).astype(np.uint8)
    zeros, scale = (117, 90, 140, 60, 128), np.float32(0.01)
    constants: dict[str, Any] = {"s": scale}
    constants |= {f"z{i}": np.uint8(zero) for i, zero in enumerate(zeros)}
    nodes = []
    for i in range(4):
        w = rng.integers(-128, 128, (16, 16, 3, 3)).astype(np.int8)
        constants |= {f"w{i}": w, f"u{i}": np.full(16, 0.001 + 0.001 * i, np.float32)}
        nodes += [
            node("DequantizeLinear", f"{f'q{i}' if i else 'x'} s z{i}", f"d{i}"),
            node("DequantizeLinear", f"w{i} u{i}", f"e{i}", axis=0),
            node("Conv", f"d{i} e{i}", f"c{i}", pads=[1] * 4),
            node("QuantizeLinear", f"c{i} s z{i + 1}", f"q{i + 1}" if i < 3 else "y"),
        ]
        sums = _conv_sums(want.astype(np.int64) - zeros[i], w.astype(np.int64), 1, 1)
        steps = sums.astype(np.float32) * (constants[f"u{i}"] * (scale / scale)).reshape(-1, 1, 1)
        want = np.clip(np.rint(steps) + zeros[i + 1], 0, 255).astype(np.uint8)
    compiled = graphopt.compile(_model(nodes, x, constants), LEVEL, threads=1)
    assert compiled.program is not None
    kernels = compiled.program.kernels
    assert all("vpdpbusd" in str(kernel.config) for kernel in kernels)
    # the first reads plain data, the last one writes it; the two between are alike
    assert len({str(kernel.function) for kernel in kernels}) == 3
    got = compiled.run({"x": x})["y"]
    assert want.std() > 10
    np.testing.assert_array_equal(got, want)

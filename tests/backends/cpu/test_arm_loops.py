"""What the loops of kernels for 64-bit ARM are made of, apart from multiply-adds: activations, pools, softmax, requantization."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from graphopt.backends.program.program import Program
from graphopt.driver.compiling import to_program
from tests.support.assembly import Loop, compiled, loops
from tests.support.onnx_graphs import model_of, rand

TARGET = "arm:neoverse-n1"
CHOICES = r"fcm\w+\s|bsl\s|bi[tf]\s|and\s+v|or[rn]\s+v"
"""What a choice by a comparison is made of."""


def _program(model: onnx.ModelProto) -> Program:
    return to_program(model, TARGET, threads=1)[2]


def _between(node: str) -> str:
    """A node on ``a`` between two convolutions, so that it has blocks of channels."""
    conv = "Conv<kernel_shape=[1,1]>"
    return f"a = {conv}(x, w)\nr = {node}\ny = {conv}(r, w)"


def _stored(loop: Loop) -> int:
    """Vectors that a loop writes to the result."""
    inside = [line for line in loop.instructions if "[sp" not in line]
    return Loop(inside).count(r"st?u?r\s+q") + 2 * Loop(inside).count(r"stp\s+q")


def _writing(program: Program, name: str) -> list[Loop]:
    """The loops of a kernel that write results, without those of products."""
    found = loops(compiled(program.functions[name], TARGET))
    return [loop for loop in found if _stored(loop) and not loop.count("prf") and not loop.count(r"fmla.*\.s\[")]


@pytest.mark.parametrize(
    ("name", "body", "most"),
    [
        ("swish", "s = Sigmoid(c)\ny = Mul(c, s)", 31),
        ("gelu", "y = Gelu(c)", 47),
        ("mish", "y = Mish(c)", 34),
    ],
)
def test_epilogue_of_a_convolution(name: str, body: str, most: float) -> None:
    """Instructions for each vector of results, from the sum on; nothing is compared, no constant made anew."""
    model = model_of(
        {"x": "float[1,64,56,56]"}, f"c = Conv<kernel_shape=[1,1]>(x, w, b)\n{body}", opset=22,
        w=rand(64, 64, 1, 1), b=rand(64),
    )  # fmt: skip
    program = _program(model)
    (kernel,) = [key for key in program.functions if key.startswith("conv")]
    found = _writing(program, kernel)
    assert found
    for loop in found:
        assert len(loop.instructions) <= most * _stored(loop), (len(loop.instructions), _stored(loop))
        assert not loop.count(CHOICES), loop.instructions
        assert not loop.count(r"dup\s"), loop.instructions


def test_maxima_of_a_window() -> None:
    """One instruction a value, though a NaN wins."""
    model = model_of(
        {"x": "float[1,64,28,28]"},
        _between("MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(a)"),
        w=rand(64, 64, 1, 1),
    )
    found = _writing(_program(model), "maxpool")
    assert found
    for loop in found:
        assert loop.count(r"fmax\s") >= 3 * _stored(loop)
        assert not loop.count(CHOICES), loop.instructions
        assert len(loop.instructions) <= 16 * _stored(loop)


def test_exponentials_of_a_row() -> None:
    program = _program(model_of({"x": "float[64,1000]"}, "y = Softmax<axis=-1>(x)"))
    longest = max(_writing(program, "softmax"), key=lambda loop: len(loop.instructions))
    assert longest.count(r"shl\s") == _stored(longest)
    assert not longest.count(CHOICES), longest.instructions
    assert len(longest.instructions) <= 24 * _stored(longest)
    assert not longest.spills


def test_an_operand_that_is_broadcast_takes_no_division() -> None:
    """Where a vector of channels stands is computed once a row."""
    model = model_of(
        {"x": "float[1,64,28,28]"},
        _between('Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(a, , s)'),
        w=rand(64, 64, 1, 1), s=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    found = _writing(_program(model), "resize")
    assert found
    for loop in found:
        assert not loop.count(r"u?m(?:ul|add|sub)|[us]mulh|[us]div"), loop.instructions


def _quantized(pool: str = "") -> Program:
    """A convolution of bytes behind another one, which stores bytes in blocks, and a pool of them if there is one."""
    conv = "Conv<kernel_shape=[1,1]>"
    body = f"""
        d = DequantizeLinear(x, s, z)
        v = DequantizeLinear(w, s)
        a = {conv}(d, v)
        r = Relu(a)
        q = QuantizeLinear(r, t, z)
        e = DequantizeLinear(q, t, z)
        {pool}
        b = {conv}({"g" if pool else "e"}, v)
        y = QuantizeLinear(b, t, z)"""
    weights = np.random.default_rng(0).integers(-127, 128, (64, 64, 1, 1)).astype(np.int8)
    return _program(
        model_of({"x": "uint8[1,64,28,28]"}, body, w=weights, s=np.float32(0.02), t=np.float32(0.03), z=np.uint8(0))
    )


def test_sums_become_bytes_four_vectors_at_once() -> None:
    """Without a conversion back, which takes one pipeline for two cycles; 16 bytes are one register of a store."""
    program = _quantized()
    found = [
        compiled(function, TARGET)
        for name, function in program.functions.items()
        if "sdot" in compiled(function, TARGET) and "conv" in name
    ]
    assert found
    for text in found:
        assert not re.search(r"\b(fcvt[nz]s|frintn|sqxtu?n2?)\b", text)
    (blocked, *_) = found
    assert len(re.findall(r"\buzp1\b", blocked)) * 4 == len(re.findall(r"\bscvtf\b.*\.4s", blocked)) * 3
    assert not re.findall(r"\bstu?r\s+s\d", blocked)


def test_maxima_of_bytes() -> None:
    """Where scale and zero point stay, 16 bytes are compared at once, and none becomes a float."""
    pool = """f = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(e)
        p = QuantizeLinear(f, t, z)
        g = DequantizeLinear(p, t, z)"""
    program = _quantized(pool)
    (name,) = [key for key in program.functions if "maxpool" in key]
    text = compiled(program.functions[name], TARGET)
    assert re.search(r"\bumax\s+v\d+\.16b", text)
    assert not re.search(r"\b(ucvtf|fmax|fmul|ushll)\s+v", text)

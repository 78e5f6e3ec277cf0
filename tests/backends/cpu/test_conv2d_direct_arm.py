"""Direct convolution for 64-bit ARM, under emulation against float64: sums that start with the bias, and stores block by block."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.reference
import pytest

import graphopt
from graphopt.driver.compiling import to_program
from tests.support import qemu
from tests.support.assembly import compiled, loops
from tests.support.onnx_graphs import model_of, rand

TARGET = "arm:neoverse-n1"
EPILOGUES = {
    "bias alone": "y = Identity(c)",
    "relu": "y = Relu(c)",
    "swish, of which the biased sum is two operands": "s = Sigmoid(c)\ny = Mul(c, s)",
    "sum with a residual": "z = Add(c, a)\ny = Relu(z)",
}


def _model(made: int, kernel: int, stride: int, body: str, kind: str = "float") -> onnx.ModelProto:
    """A convolution that brings channels into blocks, and a second one with a bias, in float32 or in float64."""
    first = f"a = Conv<kernel_shape=[{kernel},{kernel}],strides=[{stride},{stride}]>(x, v, d)"
    second = "c = Conv<kernel_shape=[1,1]>(a, w, b)"
    constants = {"v": rand(made, 5, kernel, kernel), "d": rand(made), "w": rand(made, made, 1, 1), "b": 10 * rand(made)}
    dtype = np.float32 if kind == "float" else np.float64
    return model_of(
        {"x": f"{kind}[2,5,11,9]"}, f"{first}\n{second}\n{body}", f"y:{kind}",
        **{name: array.astype(dtype) for name, array in constants.items()},
    )  # fmt: skip


@pytest.mark.qemu
@pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable()))
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize(("made", "kernel", "stride"), [(64, 3, 2), (20, 1, 1), (100, 3, 1), (8, 7, 2), (32, 1, 2)])
def test_against_float64(made: int, kernel: int, stride: int, epilogue: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 11, 9)).astype(np.float32)
    wide = _model(made, kernel, stride, EPILOGUES[epilogue], "double")
    (want,) = onnx.reference.ReferenceEvaluator(wide).run(None, {"x": x.astype(np.float64)})
    built = graphopt.compile(_model(made, kernel, stride, EPILOGUES[epilogue]), TARGET, threads=1)
    assert built.built is not None
    library, outputs = built.built.library_bytes(), [(want.shape, np.float32)]
    (got,) = qemu.run_under_qemu(library, [x], outputs, "neoverse-n1", constants=built.constants, timeout=300)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * float(np.abs(want).max()))


def _kernel(channels: int, made: int, size: int, exact: bool = False) -> str:
    """Assembly of a 1x1 convolution with bias and Relu, behind another one."""
    model = model_of(
        {"x": f"float[1,8,{size},{size}]"},
        "a = Conv<kernel_shape=[1,1]>(x, v)\nc = Conv<kernel_shape=[1,1]>(a, w, b)\ny = Relu(c)",
        v=rand(channels, 8, 1, 1), w=rand(made, channels, 1, 1), b=rand(made),
    )  # fmt: skip
    program = to_program(model, TARGET, threads=1, exact=exact)[2]
    return compiled(program.functions["conv_relu"], TARGET)


@pytest.mark.parametrize(("channels", "made", "size"), [(128, 64, 20), (256, 32, 27), (144, 96, 14)])
def test_a_block_of_channels_is_written_out(channels: int, made: int, size: int) -> None:
    """All products of 16 channels with a tile, in one loop without copies and without the stack."""
    hot = max(loops(_kernel(channels, made, size)), key=lambda loop: loop.products)
    assert hot.products in {16 * 20, 16 * 21, 16 * 24}
    assert not hot.copies
    assert not hot.spills
    assert len(hot.instructions) <= 1.3 * hot.products


def test_sums_start_with_the_bias() -> None:
    """No accumulator is cleared and none is added to a bias, but where the order of additions is to stay."""
    started, added = (
        sum(len(re.findall(r"\tfadd\tv", line)) for line in _kernel(128, 64, 20, exact).splitlines())
        for exact in (False, True)
    )
    assert started == 0
    assert added >= 20


def test_blocks_of_channels_are_stored_in_pairs() -> None:
    """A tile of 32 channels lies in two blocks, both of which are stored from addresses nearby."""
    text = _kernel(32, 64, 28)
    pairs, singles = len(re.findall(r"\tstp\tq", text)), len(re.findall(r"\tstr\tq\d+, \[x\d+, x", text))
    assert pairs >= 12
    assert singles == 0

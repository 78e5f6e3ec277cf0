"""Matrix products and convolutions of every template, type and many odd shapes on a simulated GPU, exact to the bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("ziglang")

from tests.support.cuda_on_cpu.gpu import run_on_simulated_gpu
from tests.support.cuda_on_cpu.sweep import Array, Problem, Sweep, whole

# rows, depth, columns: ones, below a tile, at its edges, no multiples of anything, deep and narrow
MATMULS = (
    (1, 1, 1), (3, 5, 7), (16, 16, 16), (17, 33, 65), (100, 72, 96), (64, 64, 64), (65, 130, 31), (33, 7, 300), (1, 1000, 10),
    (128, 17, 1), (200, 24, 40), (5, 300, 130), (16, 2050, 16), (129, 48, 8),
)  # fmt: skip
# the two operands of products of run-time matrices
BATCHES = (
    ((2, 3, 17, 33), (2, 3, 33, 9)), ((4, 16, 64), (4, 64, 16)), ((1, 40, 24), (24, 40)), ((3, 1, 50), (3, 50, 70)),
    ((2, 65, 30), (2, 30, 129)),
)  # fmt: skip
# input, weight, attributes
CONVOLUTIONS = (
    ((1, 3, 20, 23), (32, 3, 7, 7), "strides=[2,2], pads=[3,3,3,3]"),
    ((2, 17, 9, 11), (33, 17, 1, 1), ""),
    ((1, 64, 8, 8), (24, 64, 1, 1), "strides=[2,2]"),
    ((1, 16, 13, 7), (40, 16, 3, 3), "pads=[1,1,1,1]"),
    ((1, 32, 6, 6), (16, 32, 3, 3), ""),
    ((3, 24, 10, 9), (8, 24, 3, 3), "pads=[1,0,2,1], strides=[2,1]"),
    ((1, 8, 16, 16), (72, 8, 3, 3), "dilations=[2,3], pads=[2,3,2,3]"),
    ((1, 130, 5, 5), (16, 130, 3, 3), "pads=[1,1,1,1]"),
    ((1, 12, 9, 8), (36, 4, 3, 3), "group=3, pads=[1,1,1,1]"),
    ((2, 32, 7, 7), (32, 16, 1, 1), "group=2"),
    ((1, 24, 11, 10), (24, 1, 3, 3), "group=24, pads=[1,1,1,1]"),
    ((2, 40, 9, 9), (40, 1, 5, 5), "group=40, pads=[2,2,2,2], strides=[2,2]"),
    ((1, 7, 8, 8), (14, 1, 3, 3), "group=7"),
    ((2, 16, 37), (24, 16, 5), "pads=[2,2]"),
    ((1, 48, 50), (48, 1, 3), "group=48, pads=[1,1]"),
    ((1, 8, 5, 6, 7), (16, 8, 3, 3, 3), "pads=[1,1,1,1,1,1]"),
    ((1, 1, 12, 12), (4, 1, 3, 3), ""),
)  # fmt: skip
TRANSPOSED = (
    ((1, 16, 5, 7), (16, 24, 2, 2), "strides=[2,2]"),
    ((1, 32, 6, 5), (32, 16, 3, 3), "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]"),
    ((2, 8, 4, 4), (8, 5, 4, 4), "strides=[2,2], pads=[1,1,1,1]"),
    ((1, 16, 11), (16, 16, 3), "strides=[3]"),
)  # fmt: skip

TYPES = {
    "float32": (np.float32, {"exact": True}),
    "tf32": (np.float32, {}),
    "float16": (np.float16, {}),
    "bfloat16": (ml_dtypes.bfloat16, {}),
}
"""Type of the model, and how it is compiled."""


def _products() -> list[Problem]:
    problems = []
    for index, (rows, depth, columns) in enumerate(MATMULS):
        x, w, b = whole(rows, depth), whole(depth, columns), whole(columns)
        if index % 3 == 0:
            problems.append(Problem("y = MatMul(x, w)", {"x": x}, {"w": w}))
        elif index % 3 == 1:
            problems.append(Problem("y = Gemm<transB=1>(x, w, b)", {"x": x}, {"w": whole(columns, depth), "b": b}))
        else:
            body = "t = MatMul(x, w)\nu = Add(t, b)\nv = Add(u, r)\ny = Relu(v)"
            problems.append(Problem(body, {"x": x, "r": whole(rows, columns)}, {"w": w, "b": b}))
    problems += [Problem("y = MatMul(x, z)", {"x": whole(*left), "z": whole(*right)}, {}) for left, right in BATCHES]
    return problems


def _convolutions() -> list[Problem]:
    problems = []
    for index, (shape, weight, attributes) in enumerate(CONVOLUTIONS):
        conv = f"Conv{f'<{attributes}>' if attributes else ''}(x, w, b)"
        body = f"t = {conv}\ny = Relu(t)" if index % 2 else f"y = {conv}"
        problems.append(Problem(body, {"x": whole(*shape)}, {"w": whole(*weight), "b": whole(weight[0])}))
    for shape, weight, attributes in TRANSPOSED:
        body = f"y = ConvTranspose<{attributes}>(x, w, b)"
        problems.append(Problem(body, {"x": whole(*shape)}, {"w": whole(*weight), "b": whole(weight[1])}))
    return problems


PROBLEMS = {"products": _products, "convolutions": _convolutions}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("which", PROBLEMS)
def test_products(which: str, kind: str) -> None:
    dtype, options = TYPES[kind]
    sweep = Sweep(PROBLEMS[which](), dtype)
    sweep.check(run_on_simulated_gpu(sweep.model, sweep.feed, schedules=(0, 2), **options))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_products_before_sm_80(kind: str) -> None:
    """No asynchronous copies, half the depth of an ``mma``, bfloat16 by the lanes in float32."""
    sweep = Sweep(_products()[::2], TYPES[kind][0])
    sweep.check(run_on_simulated_gpu(sweep.model, sweep.feed, arch=75, schedules=(0, 2)))


def _quantized(index: int, columns: int) -> tuple[dict[str, Array], type]:
    """Scales and zero points of operands and result: powers of two, so that every rounding is exact and ties are frequent."""
    kind = (np.uint8, np.int8)[index % 2]
    scales = np.exp2(-(np.arange(columns) % 3 + 3.0)).astype(np.float32)
    zero = kind(7 if index % 2 else 120)
    constants = {"a": np.float32(0.5), "b": zero, "c": scales, "d": np.zeros(columns, np.int8)}
    return {**constants, "e": np.float32(4.0), "f": kind(3)}, kind


def _bytes() -> list[Problem]:
    problems = []
    for index, (rows, depth, columns) in enumerate(MATMULS):
        constants, kind = _quantized(index, columns)
        w = whole(depth, columns, dtype=np.int8, largest=127)
        x = whole(rows, depth, dtype=kind, largest=127)
        body = "y = QLinearMatMul(x, a, b, w, c, d, e, f)"
        problems.append(Problem(body, {"x": x}, {**constants, "w": w}, kind))
    for index, (shape, weight, attributes) in enumerate(CONVOLUTIONS):
        constants, kind = _quantized(index, weight[0])
        constants |= {
            "w": whole(*weight, dtype=np.int8, largest=127),
            "g": whole(weight[0], dtype=np.int32, largest=9999),
        }
        x = whole(*shape, dtype=kind, largest=127)
        body = f"y = QLinearConv{f'<{attributes}>' if attributes else ''}(x, a, b, w, c, d, e, f, g)"
        problems.append(Problem(body, {"x": x}, constants, kind))
    for index, (rows, depth, columns) in enumerate(MATMULS[:10]):
        kind = (np.uint8, np.int8)[index % 2]
        x, z = whole(rows, depth, dtype=kind, largest=127), whole(depth, columns, dtype=np.int8, largest=127)
        problems.append(Problem("y = MatMulInteger(x, z)", {"x": x}, {"z": z}, np.int32))
    return problems


@pytest.mark.slow
def test_products_of_bytes() -> None:
    """Unsigned and signed bytes, a scale for each column, results rounded to bytes or kept as sums."""
    sweep = Sweep(_bytes())
    sweep.check(run_on_simulated_gpu(sweep.model, sweep.feed, schedules=(0, 2)))

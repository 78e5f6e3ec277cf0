"""Tensor-core products and matrices of shared memory against numpy, by the fragment layouts that the PTX ISA documents."""

from __future__ import annotations

import functools
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("ziglang")

from graphopt.backends.cuda import device
from graphopt.backends.cuda.nvrtc import complete_source
from tests.support.cuda_on_cpu import toolchain
from tests.support.cuda_on_cpu.simulator import Kernels

Array = npt.NDArray[Any]

# kind: operands' types, elements of a word, depth, sums
PRODUCTS: dict[str, tuple[Any, Any, int, Any]] = {
    "f16": (np.float16, np.float16, 16, np.float32),
    "bf16": (ml_dtypes.bfloat16, ml_dtypes.bfloat16, 16, np.float32),
    "tf32": (np.float32, np.float32, 8, np.float32),
    "s8s8": (np.int8, np.int8, 32, np.int32),
    "u8s8": (np.uint8, np.int8, 32, np.int32),
    "s8u8": (np.int8, np.uint8, 32, np.int32),
    "u8u8": (np.uint8, np.uint8, 32, np.int32),
}
_MMA = """
extern "C" __global__ void mma_{kind}(const unsigned* a, const unsigned* b, {sum}* d) {{
  unsigned mine_a[4], mine_b[2];
  {sum} sums[4];
  int t = threadIdx.x;
  for (int i = 0; i < 4; i++) mine_a[i] = a[4 * t + i], sums[i] = d[4 * t + i];
  for (int i = 0; i < 2; i++) mine_b[i] = b[2 * t + i];
  gopt_mma_{kind}(sums, mine_a, mine_b);
  for (int i = 0; i < 4; i++) d[4 * t + i] = sums[i];
}}
"""
_LDMATRIX = """
extern "C" __global__ void load_{name}(const uint4* x, unsigned* y) {{
  __shared__ uint4 rows[32];
  int t = threadIdx.x;
  rows[t] = x[t];
  __syncthreads();
  unsigned words[4] = {{}};
  gopt_load_matrix{name}(words, rows + (t * 5) % 32);
  for (int i = 0; i < 4; i++) y[4 * t + i] = words[i];
}}
"""
_TF32 = """
extern "C" __global__ void round_tf32(unsigned* x) { x[threadIdx.x] = gopt_tf32(x[threadIdx.x]); }
"""


def _source() -> str:
    products = "".join(
        _MMA.format(kind=kind, sum="float" if sums is np.float32 else "int") for kind, (*_, sums) in PRODUCTS.items()
    )
    return products + "".join(_LDMATRIX.format(name=name) for name in ("4", "2", "4_transposed")) + _TF32


@functools.cache
def _kernels(arch: int) -> Kernels:
    return Kernels(_source(), arch=arch)


def _words(matrix: Array, rows: list[int]) -> Array:
    """Fragments of a matrix whose rows run along k: word q of 4 lanes, of each of these rows, and the words 4 to the right."""
    words = np.ascontiguousarray(matrix).view(np.uint32)  # [rows, 8]
    out = np.empty((32, 2 * len(rows)), np.uint32)
    for lane in range(32):
        g, q = divmod(lane, 4)
        out[lane] = [words[g + row, q + right] for right in (0, 4) for row in rows]
    return out


def _random(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> Array:
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return np.asarray(rng.standard_normal(shape).astype(dtype))


@pytest.mark.parametrize("arch", [75, 80])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_products(kind: str, arch: int) -> None:
    a_type, b_type, depth, sum_type = PRODUCTS[kind]
    rng = np.random.default_rng(depth)
    a, b = _random(rng, a_type, (16, depth)), _random(rng, b_type, (8, depth))
    if kind == "tf32" and arch >= 80:  # only the upper 19 bits count
        a_used, b_used = ((m.view(np.uint32) & 0xFFFFE000).view(np.float32) for m in (a, b))
    else:
        a_used, b_used = a, b
    exact = np.int64 if sum_type is np.int32 else np.float64
    start = rng.integers(-9, 9, (16, 8)).astype(sum_type)
    expected = start.astype(exact) + a_used.astype(exact) @ b_used.astype(exact).T
    held = np.empty((32, 4), sum_type)
    places = [(lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2) for lane in range(32) for i in range(4)]
    held.reshape(-1)[:] = [start[place] for place in places]
    counters = _kernels(arch).launch(f"mma_{kind}", [_words(a, [0, 8]), _words(b, [0]), held], block=32)
    assert counters.products == 1
    found = np.empty_like(expected)
    for place, value in zip(places, held.reshape(-1)):
        found[place] = value
    if sum_type is np.int32:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["4", "2", "4_transposed"])
def test_matrices_of_shared_memory(name: str) -> None:
    x = np.arange(32 * 8, dtype=np.uint16).reshape(32, 8)
    y = np.zeros((32, 4), np.uint32)
    counters = _kernels(80).launch(f"load_{name}", [x, y], block=32)
    expected = np.zeros((32, 4, 2), np.uint16)
    for matrix in range(int(name[0])):
        rows = np.stack([x[(8 * matrix + row) * 5 % 32] for row in range(8)])
        if name.endswith("transposed"):
            rows = rows.T
        expected[:, matrix] = rows.reshape(32, 2)
    np.testing.assert_array_equal(y, expected.view(np.uint32)[..., 0])
    assert counters.matrix_loads == 1
    assert counters.matrix_conflicts == 0  # steps of 5 rows of 16 bytes touch all banks


def test_rounding_to_tf32() -> None:
    values = np.array([1.0, 1 + 2**-11, 1 + 2**-11 - 2**-20, -1 - 2**-11, 3e38, np.inf, np.nan, 0.1], np.float32)
    expected = np.array([1.0, 1 + 2**-10, 1.0, -1 - 2**-10, 3e38, np.inf, np.nan, 0.1], np.float32)
    bits = np.resize(values, 32).view(np.uint32).copy()
    _kernels(80).launch("round_tf32", [bits], block=32)
    found = bits.view(np.float32)[: len(values)]
    np.testing.assert_allclose(found, expected, rtol=2**-11)
    np.testing.assert_array_equal(found[:4], expected[:4])
    assert not (bits[:5] & 0x1FFF).any()
    kept = np.resize(values, 32).view(np.uint32).copy()
    _kernels(75).launch("round_tf32", [kept], block=32)
    np.testing.assert_array_equal(kept, np.resize(values, 32).view(np.uint32))  # sm_75 computes in float32


def test_the_simulator_has_every_primitive() -> None:
    """A function that is missing here would go to a GPU untested."""
    primitives = (files(device) / "primitives.cuh").read_text(encoding="utf-8")
    own = Path(toolchain.HERE, "include", "primitives.h").read_text(encoding="utf-8")
    for text in set(re.findall(r"\bgopt_(?!lanes_)\w+", primitives)):
        assert text in own, text


def test_what_replaces_products_before_sm_80() -> None:
    """The float32 arithmetic of the lanes, plain CUDA C, agrees with the tensor core's product."""
    kinds = ("bf16", "tf32")
    source = "".join(_MMA.format(kind=kind, sum="float").replace("gopt_mma_", "gopt_lanes_mma_") for kind in kinds)
    source = complete_source(source)
    kernels = Kernels(source, arch=75)
    rng = np.random.default_rng(1)
    for kind in kinds:
        a_type, b_type, depth, _ = PRODUCTS[kind]
        a, b = (_words(_random(rng, t, (rows, depth)), at) for t, rows, at in ((a_type, 16, [0, 8]), (b_type, 8, [0])))
        expected, found = np.ones((32, 4), np.float32), np.ones((32, 4), np.float32)
        _kernels(75).launch(f"mma_{kind}", [a, b, expected], block=32)
        kernels.launch(f"mma_{kind}", [a, b, found], block=32)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_conflicts_of_banks_are_counted() -> None:
    source = _LDMATRIX.format(name="4").replace("(t * 5) % 32", "t * 8 % 32")
    y = np.zeros((32, 4), np.uint32)
    counters = Kernels(source).launch("load_4", [np.zeros((32, 8), np.uint16), y], block=32)
    assert counters.matrix_conflicts == 4 * 7

"""CUDA C on a CPU: indices, vectors, 16-bit types, functions, collectives of warps and blocks, atomics."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("ziglang")

from tests.support.cuda_on_cpu.simulator import Kernels
from tests.support.cuda_on_cpu.toolchain import ToolError

Array = npt.NDArray[Any]
LANES = np.arange(32)
_FULL = "0xffffffffu"

# name: (value of a lane as CUDA C, the lanes' values)
COLLECTIVES: dict[str, tuple[str, Any]] = {
    "shfl": (f"__shfl_sync({_FULL}, t * 10, (t + 3) % 32)", (LANES + 3) % 32 * 10),
    "shfl_width": (f"__shfl_sync({_FULL}, t * 10, 9, 8)", LANES // 8 * 80 + 10),
    "shfl_up": (f"__shfl_up_sync({_FULL}, t, 3)", np.where(LANES >= 3, LANES - 3, LANES)),
    "shfl_up_width": (f"__shfl_up_sync({_FULL}, t, 3, 8)", np.where(LANES % 8 >= 3, LANES - 3, LANES)),
    "shfl_down": (f"__shfl_down_sync({_FULL}, t, 5)", np.where(LANES < 27, LANES + 5, LANES)),
    "shfl_down_width": (f"__shfl_down_sync({_FULL}, t, 5, 16)", np.where(LANES % 16 < 11, LANES + 5, LANES)),
    "shfl_xor": (f"__shfl_xor_sync({_FULL}, t, 21)", LANES ^ 21),
    "shfl_xor_width": (f"__shfl_xor_sync({_FULL}, t, 4, 4)", np.where(LANES % 8 < 4, LANES, LANES ^ 4)),
    "shfl_half": (f"(int)(float)__shfl_xor_sync({_FULL}, (half)t, 1)", LANES ^ 1),
    "shfl_half2": (f"(int)(float)__shfl_xor_sync({_FULL}, make_half2((half)t, (half)-t), 1).y", -(LANES ^ 1)),
    "shfl_float": (f"(int)(2 * __shfl_xor_sync({_FULL}, t + 0.5f, 1))", 2 * (LANES ^ 1) + 1),
    "shfl_double": (f"(int)(2 * __shfl_xor_sync({_FULL}, t + 0.5, 16))", 2 * (LANES ^ 16) + 1),
    "shfl_long": (f"(int)(__shfl_xor_sync({_FULL}, (int64_t)t << 40, 2) >> 40)", LANES ^ 2),
    "two_masks": ("t < 16 ? __shfl_xor_sync(0xffffu, t, 1) : __shfl_xor_sync(0xffff0000u, -t, 2)",
               np.where(LANES < 16, LANES ^ 1, -(LANES ^ 2))),
    "ballot": (f"(int)__ballot_sync({_FULL}, t % 3 == 0)", np.full(32, sum(1 << i for i in range(0, 32, 3)))),
    "any": (f"__any_sync({_FULL}, t == 31) + 2 * __any_sync({_FULL}, t == 32)", np.full(32, 1)),
    "all": (f"__all_sync({_FULL}, t >= 0) + 2 * __all_sync({_FULL}, t > 0)", np.full(32, 1)),
    "all_of_half": ("t < 16 ? __all_sync(0xffffu, t < 16) : __all_sync(0xffff0000u, t < 31)", (LANES < 16).astype(int)),
    "match_any": (f"(int)__match_any_sync({_FULL}, t / 16)", np.where(LANES < 16, 0xFFFF, -0x10000)),
    "match_all": ("match_all(t, 7) == -1 && match_all(t, t) == 0", np.ones(32, int)),
    "reduce_add": (f"__reduce_add_sync({_FULL}, t - 20)", np.full(32, 496 - 640)),
    "reduce_min": (f"__reduce_min_sync({_FULL}, t - 20)", np.full(32, -20)),
    "reduce_max": (f"(int)__reduce_max_sync({_FULL}, (unsigned)(t - 20))", np.full(32, -1)),
    "reduce_xor": (f"(int)__reduce_xor_sync({_FULL}, (unsigned)t * 3)", np.full(32, np.bitwise_xor.reduce(LANES * 3))),
    "sync_count": ("__syncthreads_count(t % 4 == 0)", np.full(32, 8)),
    "sync_or": ("__syncthreads_or(t == 9) + 2 * __syncthreads_or(t == 99)", np.full(32, 1)),
    "sync_and": ("__syncthreads_and(t < 99) + 2 * __syncthreads_and(t == 9)", np.full(32, 1)),
    "byte_perm": ("__byte_perm(0x33221100 + t, 0x77665544, 0x7410)", 0x77441100 + LANES),
    "dp4a": ("__dp4a(0x01ff02fe, 0x01010101 * t, 100)", 100 + LANES * (1 - 1 + 2 - 2)),
    "dp4a_unsigned": ("(int)__dp4a(0x01ff02feu, 0x01010101u * t, 100u)", 100 + LANES * (1 + 255 + 2 + 254)),
    "popc": ("__popc(t) * 100 + __clz(t + 1)", [bin(i).count("1") * 100 + 32 - int(i + 1).bit_length() for i in range(32)]),
    "float2int": ("__float2int_rn(t / 2.0f) * 100 + __float2int_rz(-t / 2.0f)", np.rint(LANES / 2) * 100 - LANES // 2),
    "saturates": ("__float2int_rn(t % 2 ? 1e20f : -1e20f)", np.where(LANES % 2, 2**31 - 1, -(2**31))),
    "mulhi": ("__mulhi(t << 26, 1 << 9) * 10 + (int)(__umul64hi((uint64_t)t << 59, 32))", (LANES << 35 >> 32) * 10 + LANES),
    "min_of_nan": ("(int)min(CUDART_NAN_F, (float)t) + (int)max((float)t, CUDART_NAN_F)", 2 * LANES),
}  # fmt: skip

_PRELUDE = """#include <math_constants.h>
static inline int match_all(int t, int value) {
  int equal;
  return (int)__match_all_sync(0xffffffffu, value, &equal);
}
"""
_COLLECTIVE = 'extern "C" __global__ void {name}(int* y) {{ int t = threadIdx.x; y[t] = {value}; }}\n'

_OTHERS = """
extern "C" __global__ void indices(int* y) {
  int i = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  y[b * blockDim.x * blockDim.y * blockDim.z + i] = 100 * b + i;
}
extern "C" __global__ void halves(const half* a, const half* b, half* y) {
  int t = threadIdx.x;
  half2 pair = __hfma2(make_half2(a[t], b[t]), make_half2(b[t], b[t]), make_half2(a[t], a[t]));
  y[8 * t] = a[t] + b[t] * a[t];
  y[8 * t + 1] = hexp(a[t]);
  y[8 * t + 2] = pair.x;
  y[8 * t + 3] = pair.y;
  y[8 * t + 4] = __hmax(a[t], b[t]);
  y[8 * t + 5] = a[t] / b[t];
  y[8 * t + 6] = __float2half_rn(__half2float(a[t]) * 3.0f);
  y[8 * t + 7] = __habs(a[t]);
}
extern "C" __global__ void bfloats(const nv_bfloat16* a, const nv_bfloat16* b, nv_bfloat16* y) {
  int t = threadIdx.x;
  y[4 * t] = a[t] + b[t] * a[t];
  y[4 * t + 1] = __float2bfloat16(__bfloat162float(a[t]) / 3.0f);
  *(nv_bfloat162*)(y + 4 * t + 2) = __halves2bfloat162(__hmax(a[t], b[t]), __hneg(a[t]));
}
extern "C" __global__ void vectors(const float4* x, float4* y, const ushort4* u, uint2* v, char4* c) {
  int t = threadIdx.x;
  float4 a = x[t];
  y[t] = make_float4(a.w, a.z, a.y, a.x + 1.0f);
  ushort4 w = u[t];
  v[t] = make_uint2(w.x | w.y << 16, w.z | w.w << 16);
  c[t] = make_char4(t, -t, 2 * t, -2 * t);
}
extern "C" __global__ void atomics(int* y, float* f, unsigned* u) {
  atomicAdd(y, 1);
  atomicMax(y + 1, (int)threadIdx.x);
  atomicMin(y + 2, -(int)threadIdx.x);
  atomicAdd(f, 0.5f);
  atomicOr(u, 1u << threadIdx.x % 32);
  atomicExch(u + 1, 7u);
  atomicCAS(u + 2, 0u, 5u);
}
extern "C" __global__ void dynamic(const float* x, float* y) {
  extern __shared__ __align__(16) unsigned char memory[];
  float* s = (float*)memory;
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void narrowed(const double* x, half* h, nv_bfloat16* b) {
  h[threadIdx.x] = (half)x[threadIdx.x];
  b[threadIdx.x] = (nv_bfloat16)x[threadIdx.x];
}
extern "C" __global__ void nothing() {}
"""


@functools.cache
def _kernels() -> Kernels:
    collectives = "".join(_COLLECTIVE.format(name=name, value=value) for name, (value, _) in COLLECTIVES.items())
    return Kernels(_PRELUDE + collectives + _OTHERS)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_functions_of_a_warp(name: str) -> None:
    found = np.zeros(32, np.int32)
    _kernels().launch(name, [found], block=32)
    np.testing.assert_array_equal(found, np.asarray(COLLECTIVES[name][1]).astype(np.int64).astype(np.int32))


def test_indices() -> None:
    found = np.zeros(5 * 3 * 2 * 2 * 3 * 2, np.int32)
    counters = _kernels().launch("indices", [found], grid=(2, 3, 2), block=(5, 3, 2))
    blocks, threads = np.divmod(np.arange(found.size), 30)
    np.testing.assert_array_equal(found, 100 * blocks + threads)
    assert counters.blocks == 12


def test_halves_round_after_every_operation() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(64).astype(np.float16) for _ in range(2))
    y = np.zeros((64, 8), np.float16)
    _kernels().launch("halves", [a, b, y], block=64)
    wide = a.astype(np.float64), b.astype(np.float64)
    expected = [
        a + b * a,
        np.exp(wide[0]).astype(np.float16),
        (wide[0] * wide[1] + wide[0]).astype(np.float16),
        (wide[1] * wide[1] + wide[0]).astype(np.float16),
        np.maximum(a, b),
        a / b,
        (a.astype(np.float32) * np.float32(3)).astype(np.float16),
        np.abs(a),
    ]
    np.testing.assert_array_max_ulp(y, np.stack(expected, axis=1), maxulp=0 if (y != 0).all() else 1)


def test_bfloats() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(64).astype(ml_dtypes.bfloat16) for _ in range(2))
    y = np.zeros((64, 4), ml_dtypes.bfloat16)
    _kernels().launch("bfloats", [a, b, y], block=64)
    third = (a.astype(np.float32) / np.float32(3)).astype(ml_dtypes.bfloat16)
    expected = np.stack([a + b * a, third, np.maximum(a, b), -a], axis=1)
    np.testing.assert_array_equal(y.view(np.uint16), expected.view(np.uint16))


def test_doubles_are_rounded_once() -> None:
    """Values beside the middle between two small floats, by less than a float32 shows."""
    middles = np.array([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 2**-25, 65519.0, 1e30, np.inf])
    x = np.concatenate([middles, middles * (1 + 2**-40), -middles * (1 - 2**-40), [np.nan]])
    h, b = np.zeros(len(x), np.float16), np.zeros(len(x), ml_dtypes.bfloat16)
    _kernels().launch("narrowed", [x, h, b], block=len(x))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(h, x.astype(np.float16))
    above = 1 + 2**-7
    np.testing.assert_array_equal(b[[2, 3, 10, 11, 18, 19]].astype(float), [1, 1 + 2**-6, above, 1 + 2**-6, -1, -above])


def test_vectors() -> None:
    x = np.arange(128, dtype=np.float32)
    u = np.arange(128, dtype=np.uint16) * 257
    y, v, c = np.zeros((32, 4), np.float32), np.zeros((32, 2), np.uint32), np.zeros((32, 4), np.int8)
    counters = _kernels().launch("vectors", [x, y, u, v, c], block=32)
    expected = x.reshape(32, 4)[:, ::-1].copy()
    expected[:, 3] += 1
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(v, u.view(np.uint32).reshape(32, 2))
    np.testing.assert_array_equal(c, np.outer(np.arange(32), [1, -1, 2, -2]).astype(np.int8))
    assert counters.wide_accesses == 64


def test_atomics() -> None:
    y, f, u = np.zeros(3, np.int32), np.zeros(1, np.float32), np.zeros(3, np.uint32)
    _kernels().launch("atomics", [y, f, u], grid=3, block=96)
    np.testing.assert_array_equal(y, [288, 95, -95])
    np.testing.assert_array_equal(f, [144])
    np.testing.assert_array_equal(u, [0xFFFFFFFF, 7, 5])


@pytest.mark.parametrize("threads", [1, 33, 1024])
def test_dynamic_shared_memory(threads: int) -> None:
    x = np.random.default_rng(threads).standard_normal(threads).astype(np.float32)
    y = np.zeros_like(x)
    counters = _kernels().launch("dynamic", [x, y], block=threads, shared=4 * threads)
    np.testing.assert_array_equal(y, x[::-1])
    assert counters.barriers == 1


def test_a_kernel_without_parameters() -> None:
    _kernels().launch("nothing", [], grid=2, block=1)


def test_a_source_that_does_not_compile() -> None:
    with pytest.raises(ToolError, match="no_such_function"):
        Kernels('extern "C" __global__ void f() { no_such_function(); }')


def test_contraction_is_chosen() -> None:
    """NVIDIA's compiler may fuse a product and a sum; what must keep its bits has to keep them either way."""
    source = """
    extern "C" __global__ void f(const float* x, float* y) {
      y[0] = x[0] * x[1] + x[2];
      y[1] = __fadd_rn(__fmul_rn(x[0], x[1]), x[2]);
    }"""
    x = np.array([1 + 2**-12, 1 + 2**-12, -1], np.float32)
    rounded, fused = np.float32(x[0] * x[1]) + x[2], np.float32(float(x[0]) * float(x[1]) + float(x[2]))
    for contract, expected in ((False, rounded), (True, fused)):
        y = np.zeros(2, np.float32)
        Kernels(source, contract=contract).launch("f", [x, y], block=1)
        np.testing.assert_array_equal(y, [expected, rounded])

"""Each mistake that the simulator is there to find, beside a kernel that differs in no more than that and is right."""

from __future__ import annotations

import functools

import numpy as np
import pytest

pytest.importorskip("ziglang")

from tests.support.cuda_on_cpu.finding import Finding
from tests.support.cuda_on_cpu.simulator import Kernels

_KERNEL = 'extern "C" __global__ void __launch_bounds__(128) {name}(float* x, float* y, int n) {{\n{body}\n}}\n'
_LOAD = "__shared__ float s[128]; int t = threadIdx.x;"

EARLY = ("race", "uninitialised")
"""A read before its time is one or the other, by who comes first in the order that found it."""

# name: (the finding, the body of the kernel); a name that ends in "_right" is the same kernel without the mistake
BODIES: dict[str, tuple[str, str]] = {
    "barrier": ("early", f"{_LOAD} s[t] = x[t]; y[t] = s[127 - t];"),
    "barrier_right": ("", f"{_LOAD} s[t] = x[t]; __syncthreads(); y[t] = s[127 - t];"),
    "reuse": (
        "race",
        f"{_LOAD} s[t] = x[t]; __syncthreads(); float a = s[127 - t]; s[t] = a; __syncthreads(); y[t] = s[t];",
    ),
    "reuse_right": (
        "",
        f"{_LOAD} s[t] = x[t]; __syncthreads(); float a = s[127 - t]; __syncthreads(); s[t] = a; __syncthreads(); y[t] = s[t];",
    ),
    "warp": ("early", f"{_LOAD} s[t] = x[t]; y[t] = s[t ^ 1];"),
    "warp_right": ("", f"{_LOAD} s[t] = x[t]; __syncwarp(); y[t] = s[t ^ 1];"),
    "warp_shuffle": ("race", f"{_LOAD} s[t] = x[t]; __shfl_xor_sync(0xffffffffu, 1, 1); y[t] = s[t ^ 1];"),
    "warp_pair": ("early", f"{_LOAD} s[t] = x[t]; __syncwarp(3u << (t % 32 & ~1)); y[t] = s[t ^ 2];"),
    "warp_pair_right": ("", f"{_LOAD} s[t] = x[t]; __syncwarp(3u << (t % 32 & ~1)); y[t] = s[t ^ 1];"),
    "warp_chain_right": (
        "",
        f"{_LOAD} s[t] = x[t]; __syncwarp(3u << (t % 32 & ~1)); __syncwarp(5u << (t % 32 & ~2)); y[t] = s[t ^ 3];",
    ),
    "other_warp": ("early", f"{_LOAD} s[t] = x[t]; __syncwarp(); y[t] = s[t ^ 32];"),
    "same_place": ("race", f"{_LOAD} if (t < 2) s[0] = x[0]; __syncthreads(); y[t] = s[0];"),
    "same_place_right": ("", f"{_LOAD} if (t < 1) s[0] = x[0]; __syncthreads(); y[t] = s[0];"),
    "half_words_right": (
        "",
        "__shared__ half s[256]; int t = threadIdx.x; s[t] = (half)x[t]; s[128 + t] = s[t];"
        " __syncthreads(); y[t] = (float)s[255 - t];",
    ),
    "global": ("race", "y[threadIdx.x] = 1; x[threadIdx.x] = y[threadIdx.x ^ 64];"),
    "global_right": ("", "y[threadIdx.x] = 1; __syncthreads(); x[threadIdx.x] = y[threadIdx.x ^ 64];"),
    "blocks_write": ("race", "if (threadIdx.x == 0) y[0] = 1;"),
    "blocks_write_right": ("", "if (threadIdx.x == 0) y[blockIdx.x] = 1;"),
    "blocks_read": (
        "race",
        "if (threadIdx.x == 0) y[blockIdx.x] = x[1]; if (threadIdx.x == 1 && blockIdx.x == 1) x[1] = 2;",
    ),
    "blocks_atomic_right": ("", "atomicAdd(y, 1.0f);"),
    "atomic_read": ("race", "atomicAdd(y, 1.0f); x[threadIdx.x] = y[0];"),
    "blocks_fence": (
        "race",
        "__shared__ int last; if (threadIdx.x == 0) { x[blockIdx.x] = 1;"
        " last = atomicAdd((int*)y + 4, 1) == gridDim.x - 1; }"
        " __syncthreads(); if (last && threadIdx.x == 0) y[0] = x[0] + x[1];",
    ),
    "blocks_fence_right": (
        "",
        "__shared__ int last; if (threadIdx.x == 0) { x[blockIdx.x] = 1; __threadfence();"
        " last = atomicAdd((int*)y + 4, 1) == gridDim.x - 1; __threadfence(); }"
        " __syncthreads(); if (last && threadIdx.x == 0) y[0] = x[0] + x[1];",
    ),
    "uninitialised": ("uninitialised", f"{_LOAD} if (t < 127) s[t] = x[t]; __syncthreads(); y[t] = s[t];"),
    "beyond": ("bounds", "y[threadIdx.x + n - 127] = x[threadIdx.x];"),
    "below": ("bounds", "y[(int)threadIdx.x - 1] = x[threadIdx.x];"),
    "read_beyond": ("bounds", "y[threadIdx.x] = x[threadIdx.x + n - 127];"),
    "half_beyond": ("bounds", "half* h = (half*)y; h[2 * n] = (half)1;"),
    "shared_beyond": ("bounds", f"{_LOAD} s[t + 1] = x[t]; __syncthreads(); y[t] = s[t + 1];"),
    "dynamic_beyond": ("bounds", "extern __shared__ float d[]; d[threadIdx.x + 1] = 1;"),
    "dynamic_right": (
        "",
        "extern __shared__ float d[]; d[threadIdx.x] = x[threadIdx.x]; y[threadIdx.x] = d[threadIdx.x];",
    ),
    "misaligned": ("misaligned", "*(float4*)(y + 2) = *(const float4*)x;"),
    "aligned_right": ("", "if (threadIdx.x == 0 && blockIdx.x == 0) *(float4*)(y + 4) = *(const float4*)x;"),
    "misaligned_pair": ("misaligned", "half* h = (half*)x; half2 v = *(half2*)(h + 1); y[threadIdx.x] = v.x + v.y;"),
    "divergent": ("left-early", "if (threadIdx.x < 64) __syncthreads();"),
    "other_barrier": (
        "divergence",
        "if (threadIdx.x < 64) { __syncthreads(); y[0] = n; } else { __syncthreads(); y[1] = n; }",
    ),
    "left_warp": ("left-early", "if (threadIdx.x == 5) return; y[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0);"),
    "outside_mask": ("mask", "y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 0);"),
    "shuffle_absent": (
        "mask",
        "if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 20);",
    ),
    "different_masks": (
        "left-early",
        "y[threadIdx.x] = __shfl_xor_sync(threadIdx.x % 32 < 16 ? 0xffffffffu : 0xffff0000u, 1.0f, 1);",
    ),
    "barrier_and_shuffle": ("divergence", "if (threadIdx.x % 2) __syncthreads(); else __syncwarp();"),
    "not_arrived": (
        "not-arrived",
        f"{_LOAD} gopt_copy_async4(s + t, x + t, true); gopt_copy_commit(); gopt_copy_wait(1); y[t] = s[t];",
    ),
    "not_committed": ("not-arrived", f"{_LOAD} gopt_copy_async4(s + t, x + t, true); gopt_copy_wait(0); y[t] = s[t];"),
    "arrived_right": (
        "",
        f"{_LOAD} gopt_copy_async4(s + t, x + t, true); gopt_copy_commit(); gopt_copy_wait(0); y[t] = s[t];",
    ),
    "arrived_for_others": (
        "early",
        f"{_LOAD} gopt_copy_async4(s + t, x + t, true); gopt_copy_commit(); gopt_copy_wait(0); y[t] = s[127 - t];",
    ),
    "copy_over_copy": (
        "race",
        f"{_LOAD} gopt_copy_async4(s, x, true); gopt_copy_commit(); gopt_copy_wait(0); y[t] = s[0];",
    ),
    "copy_beyond": ("bounds", f"{_LOAD} gopt_copy_async4(s + t, x + t + n, true);"),
    "copy_absent_right": (
        "",
        f"{_LOAD} gopt_copy_async4(s + t, x + t + n, false); gopt_copy_commit(); gopt_copy_wait(0); y[t] = s[t];",
    ),
    "copy_misaligned": ("misaligned", f"{_LOAD} if (t == 0) gopt_copy_async16(s, x + 1, true);"),
    "copy_to_global": ("bounds", "gopt_copy_async4(y + threadIdx.x, x + threadIdx.x, true);"),
    "trap": ("trap", "if (x[0] == 0) __trap();"),
}


@functools.cache
def _kernels() -> Kernels:
    return Kernels("".join(_KERNEL.format(name=name, body=body) for name, (_, body) in BODIES.items()))


@pytest.mark.parametrize("name", BODIES)
def test_a_mistake_is_found(name: str) -> None:
    x, y = np.zeros(128, np.float32), np.zeros(128, np.float32)
    kind, _ = BODIES[name]
    arguments = [x, y, np.int32(128)]
    grid = 2 if name.startswith("blocks") else 1
    if not kind:
        _kernels().launch(name, arguments, grid=grid, block=128, shared=512)
        return
    with pytest.raises(Finding) as caught:
        _kernels().launch(name, arguments, grid=grid, block=128, shared=512)
    assert caught.value.kind in EARLY if kind == "early" else caught.value.kind == kind, caught.value
    assert name in caught.value.text


def test_a_finding_names_the_place() -> None:
    x, y = np.zeros(128, np.float32), np.zeros(128, np.float32)
    with pytest.raises(
        Finding,
        match=r"block \(0,0,0\), thread \(\d+,0,0\) .*(reads|writes) s\+\d+, which thread \d+ of the block (reads|writes)",
    ):
        _kernels().launch("reuse", [x, y, np.int32(128)], block=128)
    with pytest.raises(Finding, match=r"writes 4 bytes at y\+512, which has 512 bytes"):
        _kernels().launch("beyond", [x, y, np.int32(128)], block=128)


def test_what_a_launch_must_keep_to() -> None:
    arguments = [np.zeros(128, np.float32), np.zeros(128, np.float32), np.int32(128)]
    for block, grid in ((256, 1), (0, 1), (128, (1, 65536))):
        with pytest.raises(Finding) as caught:
            _kernels().launch("barrier_right", arguments, grid=grid, block=block)
        assert caught.value.kind == "launch"
    with pytest.raises(TypeError, match="parameters"):
        _kernels().launch("barrier_right", arguments[:2])
    with pytest.raises(KeyError):
        _kernels().launch("absent", arguments)


def test_the_simulator_goes_on_after_a_finding() -> None:
    x = np.arange(128, dtype=np.float32)
    for _ in range(3):
        y = np.zeros(128, np.float32)
        with pytest.raises(Finding):
            _kernels().launch("left_warp", [x, y, np.int32(128)], block=128)
        with pytest.raises(Finding, match="not-arrived"):  # not the copies that the last launch didn't wait for
            _kernels().launch("not_committed", [x, y, np.int32(128)], block=128)
        _kernels().launch("barrier_right", [x, y, np.int32(128)], block=128)
        np.testing.assert_array_equal(y, x[::-1])


def test_results_that_depend_on_the_order() -> None:
    """Without instrumentation nothing but the results tells of a race."""
    body = "__shared__ int s; if (threadIdx.x == 0) s = 0; __syncthreads(); y[threadIdx.x] = atomicAdd(&s, 1);"
    kernels = Kernels(_KERNEL.format(name="ticket", body=body), checked=False)
    with pytest.raises(Finding) as caught:
        kernels.launch("ticket", [np.zeros(128, np.float32), np.zeros(128, np.float32), np.int32(0)], block=128)
    assert caught.value.kind == "schedule"

"""Running convolution kernels by themselves: layouts, a float64 oracle, compiling one function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here

LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")


def caps_of(level: str) -> Caps:
    """Capabilities of an instruction set level for one thread; skips the test where it can't run."""
    target = parse_target(level, 1)
    if not can_run_here(target):
        pytest.skip(f"needs a processor of {level}")
    return target.caps


def build(function: Any, level: str) -> Any:
    """``function`` compiled for a level."""
    function = function.with_attr("global_symbol", "kernel")
    with cpu_pass_context():
        return tvm.compile(tvm.IRModule({"kernel": function}), parse_target(level, 1).tvm_target()).jit()["kernel"]


def call(kernel: Any, arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The result of a kernel; it starts as NaN so that no element may be left out."""
    output = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    kernel(*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), output)
    result: np.ndarray = output.numpy()
    return result


def to_physical(x: np.ndarray, block: int) -> np.ndarray:
    """NCHW data in channel blocks; plain if ``block`` is 1."""
    if block == 1:
        return x
    n, c, h, w = x.shape
    return np.ascontiguousarray(x.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2))


def to_logical(x: np.ndarray, block: int) -> np.ndarray:
    """The inverse of ``to_physical``."""
    if block == 1:
        return x
    n, c, h, w, _ = x.shape
    merged: np.ndarray = x.transpose(0, 1, 4, 2, 3).reshape(n, c * block, h, w)
    return merged


def oracle(x: np.ndarray, weight: np.ndarray, spec: Conv2dSpec) -> np.ndarray:
    """Grouped convolution in float64 by its definition: one output pixel at a time, taps outside the input left out."""
    n, _, height, width = x.shape
    per_out, per_in = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    out = np.zeros((n, spec.out_channels, int(spec.out_height), int(spec.out_width)))
    wide = weight.astype(np.float64).reshape(spec.groups, per_out, per_in, *spec.kernel)
    data = x.astype(np.float64).reshape(n, spec.groups, per_in, height, width)
    for oy in range(out.shape[2]):
        for ox in range(out.shape[3]):
            for ky in range(spec.kernel[0]):
                for kx in range(spec.kernel[1]):
                    y = oy * spec.strides[0] - spec.pads[0] + ky * spec.dilations[0]
                    x_ = ox * spec.strides[1] - spec.pads[1] + kx * spec.dilations[1]
                    if 0 <= y < height and 0 <= x_ < width:
                        part = np.einsum("ngi,goi->ngo", data[:, :, :, y, x_], wide[:, :, :, ky, kx])
                        out[:, :, oy, ox] += part.reshape(n, spec.out_channels)
    return out


def inputs_of(spec: Conv2dSpec, batch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Data and weights of a problem."""
    rng = np.random.default_rng(7)
    n = batch if batch is not None else int(spec.batch)
    x = rng.standard_normal((n, spec.in_channels, spec.in_height, spec.in_width), dtype=np.float32)
    weight = rng.standard_normal((spec.out_channels, spec.in_channels // spec.groups, *spec.kernel), dtype=np.float32)
    return x, weight


def assert_close(actual: np.ndarray, expected: np.ndarray, reduction: int) -> None:
    """Fail unless the error is what float32 sums of ``reduction`` products explain."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1.6e-6 * max(np.sqrt(reduction), reduction / 4))

"""LRN on channel blocks against float64, for every level of instructions that runs here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.cpu.kernels.lrn import default_config, emit
from graphopt.backends.specs.normalization import LrnSpec


def reference(x: np.ndarray, spec: LrnSpec) -> np.ndarray:
    x = x.astype(np.float64)
    padded = np.pad(x * x, ((0, 0), (spec.before, spec.after), (0, 0), (0, 0)))
    total = sum(padded[:, d : d + x.shape[1]] for d in range(spec.size))
    return x / (spec.bias + spec.alpha / spec.size * total) ** spec.beta


def blocked(x: np.ndarray, b: int) -> np.ndarray:
    n, c, h, w = x.shape
    return np.ascontiguousarray(x.reshape(n, c // b, b, h, w).transpose(0, 1, 3, 4, 2))


def host_has(feature: str) -> bool:
    with open("/proc/cpuinfo") as f:
        return feature in f.read()


LEVELS = [("x86-64", "sse2"), ("haswell", "avx2"), ("skylake-avx512", "avx512f")]


def run(spec: LrnSpec, x: np.ndarray, cpu: str | None = None, cores: int = 2) -> np.ndarray:
    """One call of the kernel, built for ``cpu``, by default with the widest vectors that this machine has."""
    cpu = cpu or next(name for name, feature in reversed(LEVELS) if host_has(feature))
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu})
    config = default_config(spec, Caps(cores=cores))
    with cpu_pass_context():
        built = tvm.compile(tvm.IRModule({"lrn": emit(spec, config.parallel, "lrn")}), target).jit()
    data = tvm.runtime.tensor(blocked(x, spec.block))
    out = tvm.runtime.empty(data.shape, "float32")
    built["lrn"](data, out)
    y: Any = out.numpy()
    return y.transpose(0, 1, 4, 2, 3).reshape(spec.shape)


@pytest.mark.parametrize(("cpu", "feature"), LEVELS)
@pytest.mark.parametrize(
    ("shape", "block", "size"),
    [
        ((1, 64, 5, 7), 16, 5),
        ((2, 24, 3, 1), 8, 5),
        ((1, 16, 2, 3), 16, 4),
        ((1, 32, 2, 2), 8, 17),
        ((3, 8, 1, 1), 8, 1),
    ],
)
def test_against_float64(shape: tuple[int, int, int, int], block: int, size: int, cpu: str, feature: str) -> None:
    if not host_has(feature):
        pytest.skip(f"no {feature} here")
    spec = LrnSpec(shape, block, size, alpha=0.3, beta=0.75, bias=1.5)
    x = (np.random.default_rng(0).standard_normal(shape) * 4).astype(np.float32)
    np.testing.assert_allclose(run(spec, x, cpu), reference(x, spec), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e12])
def test_magnitudes(scale: float) -> None:
    spec = LrnSpec((1, 32, 2, 3), 16, 5, alpha=1e-4, beta=0.75, bias=1.0)
    x = (np.random.default_rng(1).standard_normal(spec.shape) * scale).astype(np.float32)
    np.testing.assert_allclose(run(spec, x), reference(x, spec), rtol=1e-5)


def test_infinity_and_nan_stay_in_their_window() -> None:
    spec = LrnSpec((1, 32, 1, 2), 16, 5, alpha=1.0, beta=0.5, bias=1.0)
    x = np.ones(spec.shape, np.float32)
    x[0, 15, 0, 0], x[0, 31, 0, 1] = np.inf, np.nan
    y = run(spec, x)
    assert np.isnan(y[0, 15, 0, 0])
    assert (y[0, [13, 14, 16, 17], 0, 0] == 0).all()
    assert np.isnan(y[0, 29:32, 0, 1]).all()
    clean = np.ones(spec.shape, bool)
    clean[0, 13:18, 0, 0] = clean[0, 29:, 0, 1] = False
    np.testing.assert_allclose(y[clean], reference(np.ones(spec.shape), spec)[clean], rtol=1e-6)

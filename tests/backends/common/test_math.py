"""The approximations in backends/common/math.py keep the errors that its docstring states, at any vector width."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from graphopt.backends.base.target import parse_target
from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.common import math as m
from graphopt.backends.common.builder import KernelBuilder, Output, reader
from graphopt.backends.common.nest_cpu import cpu_nest
from graphopt.backends.common.tensor import elementwise

Array = npt.NDArray[Any]
EDGES = np.array(
    [np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38, 88.72, 88.73, -87.5, -104, -105, 1, 0.5],
    np.float32,
)  # fmt: skip


def evaluate(fns: list[Callable[[Any], Any]], x: Array, dtype: str = "float32") -> list[Array]:
    """Each function of x by the generic CPU schedule."""
    caps = parse_target("x86", 1).caps
    code = {}
    for i, fn in enumerate(fns):
        builder = KernelBuilder(caps, cpu_nest, {})
        a, b = (tirx.decl_buffer(x.shape, d, n) for n, d in (("a", "float32"), ("b", dtype)))
        builder.emit([Output(elementwise(fn, dtype, x.shape, reader(a, x.shape, "float32")), b)])
        code[f"f{i}"] = builder.finish([a, b], f"f{i}")
    built = tvm.compile(tvm.IRModule(code), target=parse_target("x86", 1).tvm_target())
    results = []
    for name in code:
        out = tvm.runtime.tensor(np.zeros(x.shape, dtype))
        built[name](tvm.runtime.tensor(x), out)
        results.append(out.numpy())
    return results


def sample() -> Array:
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 15, dtype=np.uint32).view(np.float32)
    lines = [np.linspace(-110, 95, 1 << 15), np.linspace(-10, 10, 1 << 15), np.linspace(0.4, 2, 1 << 14)]
    return np.concatenate([EDGES, bits, *lines]).astype(np.float32)


def _sigmoid(v: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -v)))


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Any], float]] = {
    "exp": (m.exp, np.exp, 1.0),
    "log": (m.log, np.log, 1.0),
    "expm1": (m.expm1, np.expm1, 3.0),
    "tanh": (m.tanh, np.tanh, 5.0),
    "erf": (m.erf, np.vectorize(math.erf), 6.0),
    "sigmoid": (m.sigmoid, _sigmoid, 3.0),
    "softplus": (m.softplus, lambda v: np.logaddexp(0, v), 3.0),
}


@pytest.fixture(scope="module")
def results() -> dict[str, Array]:
    x = sample()
    return dict(zip(CASES, evaluate([fn for fn, _, _ in CASES.values()], x)))


@pytest.mark.parametrize("name", CASES)
def test_error_in_ulp(name: str, results: dict[str, Array]) -> None:
    x, got = sample(), results[name]
    _, exact, limit = CASES[name]
    with np.errstate(all="ignore"):
        want = np.asarray(exact(x.astype(np.float64)), np.float64)
        rounded = want.astype(np.float32)
        unit = np.maximum(np.spacing(np.abs(rounded)).astype(np.float64), 2.0**-149)
        error = np.abs(got.astype(np.float64) - want) / unit
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    infinite = np.isinf(rounded)
    np.testing.assert_array_equal(got[infinite], rounded[infinite])
    plain = np.isfinite(rounded) & ~np.isinf(got)
    assert np.all(np.abs(want[np.isinf(got) & ~infinite]) > 3.4028e38), "overflow where the result is a number"
    worst = np.argmax(np.where(plain, error, 0))
    assert error[worst] <= limit, f"{name}({x[worst]}) = {got[worst]}, want {want[worst]}: {error[worst]:.2f} ulp"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 33])
def test_every_vector_width_gives_the_same(count: int, results: dict[str, Array]) -> None:
    x = np.linspace(-3, 0, count).astype(np.float32)
    got = evaluate([m.exp, m.tanh, m.log1p], np.abs(x) if count == 2 else x)
    np.testing.assert_allclose(got[0], np.exp(np.abs(x) if count == 2 else x), 3e-7)
    np.testing.assert_allclose(got[1], np.tanh(np.abs(x) if count == 2 else x), 5e-7)


def test_nan_is_told_and_kept() -> None:
    x = np.array([np.nan, 1, -np.inf, np.inf, 0], np.float32)
    two = lambda v: m.like(2.0, v)  # noqa: E731
    nan, least, most = (
        evaluate([m.is_nan], x, "bool")[0],
        *evaluate([lambda v: m.maximum(v, two(v)), lambda v: m.minimum(two(v), v)], x),
    )
    np.testing.assert_array_equal(nan, np.isnan(x))
    np.testing.assert_array_equal(least, np.maximum(x, 2))
    np.testing.assert_array_equal(most, np.minimum(x, 2))


def test_log1p_of_tiny_and_infinite() -> None:
    x = np.array([0, 1e-45, 1e-30, 1e-8, 0.5, 1e30, np.inf], np.float32)
    np.testing.assert_allclose(evaluate([m.log1p], x)[0], np.log1p(x.astype(np.float64)), 4e-7)

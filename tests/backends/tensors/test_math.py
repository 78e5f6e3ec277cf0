"""The approximations in backends/tensors/math.py keep the errors that its docstring states, at any vector width."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from graphopt.backends.base.tvm_api import cpu_pass_context, tirx, tvm
from graphopt.backends.cpu.nest import CpuSchedule
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.builder import KernelBuilder, Output, reader
from graphopt.backends.tensors.tensor import elementwise

Array = npt.NDArray[Any]
EDGES = np.array(
    [np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38, 88.72, 88.73, -87.5, -104, -105, 1, 0.5],
    np.float32,
)  # fmt: skip


TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64"]


def evaluate(
    fns: list[Callable[[Any], Any]], x: Array, dtype: str = "float32", target_name: str = "x86", libm: bool = True
) -> list[Array]:
    """Each function of x by the generic CPU schedule; without ``libm`` the code must not call the C library."""
    target = parse_target(target_name, 1)
    caps = target.caps
    code = {}
    for i, fn in enumerate(fns):
        builder = KernelBuilder(caps, CpuSchedule(), {})
        a, b = (tirx.decl_buffer(x.shape, d, n) for n, d in (("a", "float32"), ("b", dtype)))
        builder.emit([Output(elementwise(fn, dtype, x.shape, reader(a, x.shape, "float32")), b)])
        code[f"f{i}"] = builder.finish([a, b], f"f{i}")
    with cpu_pass_context():
        built = tvm.compile(tvm.IRModule(code), target=target.tvm_target())
    if not libm:
        called = set(re.findall(r"\b(?:call\w*|jmp)\s+\*?(\w+)@PLT", built.mod.inspect_source("asm")))
        assert all(name.startswith("TVM") for name in called), called
    results = []
    for name in code:
        out = tvm.runtime.tensor(np.zeros(x.shape, dtype))
        built[name](tvm.runtime.tensor(x), out)
        results.append(out.numpy())
    return results


def every_exponent(per: int) -> Array:
    """Floats of both signs with every exponent: subnormals, numbers, NaN."""
    rng = np.random.default_rng(0)
    exponent = np.repeat(np.arange(512, dtype=np.uint32), per) << 23
    mantissa = rng.integers(0, 1 << 23, exponent.size, dtype=np.uint32)
    mantissa[::per], mantissa[1::per] = 0, (1 << 23) - 1
    return (exponent | mantissa).view(np.float32)


def sample() -> Array:
    bits = every_exponent(64)
    lines = [
        np.linspace(-110, 95, 1 << 15),
        np.linspace(-10, 10, 1 << 15),
        np.linspace(0.4, 2, 1 << 14),
        np.linspace(-104, -87, 1 << 10),
    ]
    return np.concatenate([EDGES, bits, *(np.asarray(line, np.float32) for line in lines)])


def _sigmoid(v: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -v)))


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Any], float]] = {
    "exp": (m.exp, np.exp, 1.0),
    "log": (m.log, np.log, 1.0),
    "expm1": (m.expm1, np.expm1, 2.0),
    "tanh": (m.tanh, np.tanh, 2.0),
    "nimble_tanh": (m.nimble_tanh, np.tanh, 2.5),
    "erf": (m.erf, np.vectorize(math.erf), 2.0),
    "sigmoid": (m.sigmoid, _sigmoid, 2.0),
    "softplus": (m.softplus, lambda v: np.logaddexp(0, v), 3.0),
}


@pytest.fixture(scope="module", params=TARGETS)
def results(request: pytest.FixtureRequest) -> dict[str, Array]:
    if not can_run_here(parse_target(request.param, 1)):
        pytest.skip(f"needs a processor of {request.param}")
    x = sample()
    return dict(zip(CASES, evaluate([fn for fn, _, _ in CASES.values()], x, target_name=request.param, libm=False)))


def require_error(name: str, x: Array, got: Array) -> None:
    """Fail unless ``got`` is the function of `CASES` of ``x`` within its bound."""
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


@pytest.mark.parametrize("name", CASES)
def test_error_in_ulp(name: str, results: dict[str, Array]) -> None:
    require_error(name, sample(), results[name])


def require_mish(x: Array, got: Array) -> None:
    """Fail unless ``got`` is mish of ``x``."""
    with np.errstate(all="ignore"):
        v = x.astype(np.float64)
        want = v * np.tanh(np.logaddexp(0, v))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        plain = np.isfinite(want)
        np.testing.assert_allclose(got[plain], want[plain], 4 * 2.0**-23, 1e-42)
    assert np.all(got[x == np.inf] == np.inf)


def require_gelu(x: Array, got: Array) -> None:
    """Fail unless ``got`` is GELU of ``x``: where it is of numbers below zero, what counts is its distance, not a share of it."""
    finite = np.isfinite(x)
    v = x[finite].astype(np.float64)
    want = v * np.vectorize(math.erfc)(v * -math.sqrt(0.5)) / 2
    np.testing.assert_allclose(got[finite], want, 4 * 2.0**-23, 2.0**-23)
    assert np.all(got[x == np.inf] == np.inf)
    assert np.all(np.isnan(got[np.isnan(x)]))
    assert np.all(got[finite & (x < -6)] == 0)


@pytest.mark.parametrize("target", TARGETS)
def test_gelu(target: str) -> None:
    if not can_run_here(parse_target(target, 1)):
        pytest.skip(f"needs a processor of {target}")
    require_gelu(sample(), evaluate([m.gelu], sample(), target_name=target, libm=False)[0])


@pytest.mark.parametrize("target", TARGETS)
def test_mish(target: str) -> None:
    if not can_run_here(parse_target(target, 1)):
        pytest.skip(f"needs a processor of {target}")
    x = sample()
    got = evaluate([m.mish], x, target_name=target, libm=False)[0]
    require_mish(x, got)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 33])
def test_every_vector_width_gives_the_same(count: int) -> None:
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

"""Products of two run-time operands against numpy in float64: broadcasting, transposition, symbolic sizes, epilogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import cpu_pass_context, tirx, tvm
from graphopt.backends.cpu.kernels import matmul_batched as kernel
from graphopt.backends.specs.matmul import BatchedSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.driver.compiling import compile
from tests.support.chosen import templates
from tests.support.run_node import model_with, node

LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
Array = Any


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(spec: BatchedSpec, level: str, config: kernel.BatchedConfig | None = None) -> Any:
    target = parse_target(level)
    if not can_run_here(target):
        pytest.skip(f"needs a processor of {level}")
    function = kernel.emit(spec, config or kernel.default_batched(spec, target.caps), name="f")
    with cpu_pass_context():
        return tvm.compile(tvm.IRModule({"f": function}), target.tvm_target()).jit()["f"]


def check(function: Any, a: Array, b: Array, want: Array) -> None:
    """The output starts as NaN, so that no element may be left out."""
    out = tvm.runtime.tensor(np.full(want.shape, np.nan, np.float32))
    function(tvm.runtime.tensor(a), tvm.runtime.tensor(b), out)
    np.testing.assert_allclose(out.numpy(), want, 2e-5, 2e-5)


SHAPES = [(1, 1, 1), (1, 64, 9), (1, 70, 33), (3, 5, 7), (40, 40, 15), (29, 49, 8), (14, 96, 64), (50, 33, 20)]
CASES = [
    *((shape, transposed, "x86-64-v3") for shape in SHAPES for transposed in (False, True)),
    *((shape, False, level) for shape in SHAPES[2:6] for level in LEVELS if level != "x86-64-v3"),
]


@pytest.mark.parametrize(("shape", "transposed", "level"), CASES, ids=str)
def test_matches_numpy(shape: tuple[int, int, int], transposed: bool, level: str) -> None:
    """A is transposed in every other product."""
    turned = shape[0] % 2 == 1
    spec = BatchedSpec((2, 3), (3,), (2, 1), *shape, turned, transposed)
    a, b = noise(*spec.a_shape), noise(*spec.b_shape, seed=1)
    left, right = (t.swapaxes(-1, -2) if flag else t for t, flag in ((a, turned), (b, transposed)))
    check(build(spec, level), a, b, left.astype(np.float64) @ right)


@pytest.mark.parametrize("transposed", [False, True])
def test_symbolic_sizes(transposed: bool) -> None:
    batch, m, n, k = (tirx.Var(v, "int64") for v in "bmnk")
    spec = BatchedSpec((batch, 2), (batch, 2), (2,), m, n, k, False, transposed)
    function = build(spec, "x86-64-v3")
    for size in ((1, 1, 1, 1), (3, 5, 16, 2), (2, 13, 17, 9), (1, 200, 37, 30), (1, 30, 64, 300)):
        b_, m_, n_, k_ = size
        a, b = noise(b_, 2, m_, k_), noise(2, *((n_, k_) if transposed else (k_, n_)), seed=1)
        right = b.swapaxes(-1, -2) if transposed else b
        check(function, a, b, a.astype(np.float64) @ right)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_every_config_is_correct(pack: bool, groups: int) -> None:
    spec = BatchedSpec((2,), (2,), (2,), 31, 83, 12)
    product = kernel.MatmulConfig(m_tile=5, n_vectors=2, lanes=8, m_block=10)
    a, b = noise(2, 31, 12), noise(2, 12, 83, seed=1)
    check(build(spec, "x86-64-v3", kernel.BatchedConfig(product, groups, pack)), a, b, a.astype(np.float64) @ b)


@pytest.mark.parametrize("symbolic", [False, True])
def test_template_with_epilogue(symbolic: bool) -> None:
    feed = {"a": noise(2, 3, 21, 16), "b": noise(2, 3, 16, 35, seed=1), "r": noise(2, 3, 21, 35, seed=2)}
    nodes = [
        node("MatMul", "a b", "p"), node("Mul", "p c", "q"), node("Add", "q r", "s"), node("Sigmoid", "s", "y"),
    ]  # fmt: skip
    model = model_with(nodes, feed, {"c": np.array(0.25, np.float32)}, symbolic=symbolic)
    del model.graph.output[:-1]
    got = compile(model, "x86", threads=2).run(feed)["y"]
    want = 1 / (1 + np.exp(-(feed["a"].astype(np.float64) @ feed["b"] * 0.25 + feed["r"])))
    np.testing.assert_allclose(got, want, 1e-5, 1e-6)
    assert templates(model) == ["matmul-batched"]


def test_gemm_of_two_inputs() -> None:
    feed = {"a": noise(9, 21), "b": noise(35, 9, seed=1)}
    bias = noise(35, seed=2)
    model = model_with([node("Gemm", "a b c", "y", transA=1, transB=1)], feed, {"c": bias})
    want = feed["a"].T.astype(np.float64) @ feed["b"].T + bias
    np.testing.assert_allclose(compile(model, "x86", threads=2).run(feed)["y"], want, 1e-5, 1e-5)
    assert templates(model) == ["matmul-batched"]


def test_falls_back() -> None:
    feed = {"a": noise(4, 3), "v": noise(3), "w": noise(3, 4)}
    model = model_with([node("MatMul", "a v", "x"), node("Gemm", "a w", "y", alpha=0.5)], feed)
    assert templates(model) == ["generic", "generic"]

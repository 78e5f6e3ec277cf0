"""Reductions against numpy in float64: over trailing axes, over axes before them, and those left to the generic schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.driver.compiling import compile
from tests.support.chosen import templates
from tests.support.run_node import model_with, node

REDUCERS = {
    "ReduceSum": lambda v, a, k: v.sum(a, keepdims=k),
    "ReduceMean": lambda v, a, k: v.mean(a, keepdims=k),
    "ReduceL1": lambda v, a, k: np.abs(v).sum(a, keepdims=k),
    "ReduceL2": lambda v, a, k: np.sqrt((v * v).sum(a, keepdims=k)),
    "ReduceSumSquare": lambda v, a, k: (v * v).sum(a, keepdims=k),
    "ReduceMax": lambda v, a, k: v.max(a, keepdims=k),
    "ReduceMin": lambda v, a, k: v.min(a, keepdims=k),
}


def check(
    x: Any, axes: tuple[int, ...], keep: bool, expect: str | None, target: str = "x86", symbolic: bool = False
) -> None:
    nodes = [node(op, "x a", op.lower(), keepdims=int(keep)) for op in REDUCERS]
    model = model_with(nodes, {"x": x}, {"a": np.array(axes, np.int64)}, symbolic=symbolic)
    if expect is not None:
        assert set(templates(model, target)) == {expect}
    got = compile(model, target, threads=2).run({"x": x})
    for op, fn in REDUCERS.items():
        want = fn(x.astype(np.float64), axes, keep)
        assert got[op.lower()].shape == want.shape
        np.testing.assert_allclose(got[op.lower()], want, 1e-5, 1e-4, err_msg=op)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("length", [32, 33, 47, 63, 64, 200])
def test_last_axis(length: int, keep: bool) -> None:
    check(np.random.default_rng(length).standard_normal((3, 5, length)).astype(np.float32), (-1,), keep, "reduce-rows")


@pytest.mark.parametrize("keep", [False, True])
def test_spatial_axes(keep: bool) -> None:
    check(np.random.default_rng(0).standard_normal((2, 3, 7, 9)).astype(np.float32), (2, 3), keep, "reduce-rows")


def test_symbolic_rows() -> None:
    x = np.random.default_rng(0).standard_normal((4, 64, 5)).astype(np.float32).transpose(0, 2, 1).copy()
    nodes = [node("ReduceMean", "x a", "y", keepdims=0)]
    model = model_with(nodes, {"x": x}, {"a": np.array([2], np.int64)})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    assert templates(model) == ["reduce-rows"]
    compiled = compile(model, "x86", threads=2)
    for n in (1, 4):
        np.testing.assert_allclose(compiled.run({"x": x[:n]})["y"], x[:n].astype(np.float64).mean(-1), 1e-5, 1e-6)


@pytest.mark.parametrize("axes", [(0, 2), (0, 1, 2), (1,)])
def test_others_are_left_to_the_generic_schedule(axes: tuple[int, ...]) -> None:
    check(np.random.default_rng(0).standard_normal((4, 40, 3)).astype(np.float32), axes, False, "generic")


@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3", "x86-64"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_leading_and_middle_axes(axes: tuple[int, ...], target: str) -> None:
    if not can_run_here(parse_target(target, 1)):
        pytest.skip(f"needs a processor of {target}")
    x = np.random.default_rng(0).standard_normal((4, 9, 16 * 9 + 15)).astype(np.float32)
    check(x, axes, axes == (1,), "reduce-columns", target)


@pytest.mark.parametrize("columns", [16, 17, 300])
def test_many_matrices_and_threads(columns: int) -> None:
    check(np.random.default_rng(0).standard_normal((900, 5, columns)).astype(np.float32), (1,), False, "reduce-columns")


def test_long_columns_out_of_cache() -> None:
    check(np.random.default_rng(0).standard_normal((20000, 50)).astype(np.float32), (0,), True, "reduce-columns")


@pytest.mark.parametrize("axis", [0, 1])
def test_extremes_of_nan_and_infinities(axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((70, 75)).astype(np.float32)
    x[3, 0], x[5, 60], x[69, 74], x[40] = np.nan, -np.nan, np.nan, -np.inf
    x[:, 33], x[12, 12], x[50, 32:48] = np.inf, -np.inf, -0.0
    x[0, 64], x[1, 64] = np.nan, 7
    nodes = [node(op, "x a", op, keepdims=0) for op in ("ReduceMax", "ReduceMin")]
    model = model_with(nodes, {"x": x}, {"a": np.array([axis], np.int64)})
    got = compile(model, "x86", threads=2).run({"x": x})
    np.testing.assert_array_equal(got["ReduceMax"], x.max(axis))
    np.testing.assert_array_equal(got["ReduceMin"], x.min(axis))


def test_extremes() -> None:
    x = np.zeros((4, 50), np.float32)
    x[0, 3], x[1, 49], x[2] = np.nan, np.inf, 1e38
    model = model_with([node("ReduceSum", "x a", "y", keepdims=0)], {"x": x}, {"a": np.array([1], np.int64)})
    got = compile(model, "x86", threads=2).run({"x": x})["y"]
    np.testing.assert_array_equal(got, np.array([np.nan, np.inf, np.inf, 0], np.float32))

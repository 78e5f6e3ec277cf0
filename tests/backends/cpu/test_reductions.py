"""Reductions of trailing axes against numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.driver.compiling import compile, to_program
from tests.support.run_node import model_with, node

REDUCERS = {
    "ReduceSum": lambda v, a, k: v.sum(a, keepdims=k),
    "ReduceMean": lambda v, a, k: v.mean(a, keepdims=k),
    "ReduceL1": lambda v, a, k: np.abs(v).sum(a, keepdims=k),
    "ReduceL2": lambda v, a, k: np.sqrt((v * v).sum(a, keepdims=k)),
    "ReduceSumSquare": lambda v, a, k: (v * v).sum(a, keepdims=k),
}


def check(
    x: Any, axes: tuple[int, ...], keep: bool, expect: str | None, target: str = "x86", symbolic: bool = False
) -> None:
    nodes = [node(op, "x a", op.lower(), keepdims=int(keep)) for op in REDUCERS]
    model = model_with(nodes, {"x": x}, {"a": np.array(axes, np.int64)}, symbolic=symbolic)
    if expect is not None:
        assert {s.template for s in to_program(model, target, threads=2)[2].kernels} == {expect}
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
    assert [s.template for s in to_program(model, "x86", threads=2)[2].kernels] == ["reduce-rows"]
    compiled = compile(model, "x86", threads=2)
    for n in (1, 4):
        np.testing.assert_allclose(compiled.run({"x": x[:n]})["y"], x[:n].astype(np.float64).mean(-1), 1e-5, 1e-6)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1, 2)])
def test_others_are_left_to_the_generic_schedule(axes: tuple[int, ...]) -> None:
    check(np.random.default_rng(0).standard_normal((4, 40, 6)).astype(np.float32), axes, False, "generic")


def test_extremes() -> None:
    x = np.zeros((4, 50), np.float32)
    x[0, 3], x[1, 49], x[2] = np.nan, np.inf, 1e38
    model = model_with([node("ReduceSum", "x a", "y", keepdims=0)], {"x": x}, {"a": np.array([1], np.int64)})
    got = compile(model, "x86", threads=2).run({"x": x})["y"]
    np.testing.assert_array_equal(got, np.array([np.nan, np.inf, np.inf, 0], np.float32))

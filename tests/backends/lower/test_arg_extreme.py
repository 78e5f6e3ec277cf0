"""Places of extremes against numpy: ties, what is no number, infinities and signed zeros, along any axis."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.errors import InputError
from tests.support.onnx_graphs import graph_of
from tests.support.run_node import Array, model_with, node, run


def place(x: Array, axis: int, largest: bool, last: bool) -> Array:
    """What numpy says; a number that is none is the extreme."""
    function = np.argmax if largest else np.argmin
    if not last:
        return function(x, axis=axis, keepdims=True)
    return x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=True)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 7, 3, 19), 1), ((5, 1037), 0), ((2, 3, 1100), 1), ((4, 6, 3), 1), ((3, 21), 1)]
)
@pytest.mark.parametrize("symbolic", [False, True])
def test_ties_and_special_values(shape: tuple[int, ...], axis: int, symbolic: bool) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-2, 3, shape).astype(np.float32)
    x[rng.random(shape) < 0.1] = -0.0
    for value in (np.nan, np.inf, -np.inf):
        x[rng.random(shape) < 0.03] = value
    ways = [(op, last) for op in ("ArgMax", "ArgMin") for last in (0, 1)]
    nodes = [node(op, "x", f"y{i}", axis=axis, select_last_index=last) for i, (op, last) in enumerate(ways)]
    nodes.append(node("ArgMax", "x", "flat", axis=axis, keepdims=0))
    got = run(model_with(nodes, {"x": x}, symbolic=symbolic), {"x": x})
    for i, (op, last) in enumerate(ways):
        np.testing.assert_array_equal(got[f"y{i}"], place(x, axis, op == "ArgMax", bool(last)))
    np.testing.assert_array_equal(got["flat"], np.argmax(x, axis))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.float64, np.float16])
def test_types(dtype: type) -> None:
    x = np.random.default_rng(6).integers(0, 4, (2, 9, 40)).astype(dtype)
    got = run(model_with([node("ArgMax", "x", "a", axis=1), node("ArgMin", "x", "b", axis=1)], {"x": x}), {"x": x})
    np.testing.assert_array_equal(got["a"], np.argmax(x, 1, keepdims=True))
    np.testing.assert_array_equal(got["b"], np.argmin(x, 1, keepdims=True))


@pytest.mark.parametrize(("op", "shape"), [("ArgMax", "float[N,K,32]"), ("ArgMin", "float[K,N,32]")])
def test_an_axis_that_turns_out_to_be_empty_is_refused(op: str, shape: str) -> None:
    axis = 1 if op == "ArgMax" else 0
    model = graphopt.compile(graph_of({"x": shape}, f"y = {op}<axis={axis}>(x)", "y:int64"), "native", threads=1)
    empty, full = ((2, 0, 32), (2, 3, 32)) if axis else ((0, 2, 32), (3, 2, 32))
    with pytest.raises(InputError, match="K = 0"):
        model.run({"x": np.zeros(empty, np.float32)})
    x = np.random.default_rng(0).standard_normal(full).astype(np.float32)
    found = np.argmax if op == "ArgMax" else np.argmin
    np.testing.assert_array_equal(model.run({"x": x})["y"], found(x, axis=axis, keepdims=True))


def test_hardmax_along_an_axis_that_turns_out_to_be_empty_is_empty() -> None:
    model = graphopt.compile(graph_of({"x": "float[2,K,32]"}, "y = Hardmax<axis=1>(x)"), "native", threads=1)
    assert model.run({"x": np.zeros((2, 0, 32), np.float32)})["y"].shape == (2, 0, 32)

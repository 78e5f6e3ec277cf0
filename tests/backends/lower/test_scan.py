"""Cumulative sums and products against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.support.run_node import Array, model_with, node, run

SHAPES = [
    ((3, 129), 1),
    ((2, 17, 37), 1),
    ((17, 600, 8), 1),
    ((40, 1000), 1),
    ((2, 3, 5, 33), 1),
    ((19,), 0),
    ((0, 4), 1),
    ((2, 0), 1),
]


def totals(x: Array, axis: int, exclusive: bool, reverse: bool, product: bool) -> Array:
    """What numpy says."""
    function: Callable[..., Array] = np.cumprod if product else np.cumsum
    x = np.flip(x, axis) if reverse else x
    found = np.asarray(function(x, axis=axis, dtype=x.dtype))
    if exclusive and x.shape[axis]:
        shifted = np.take(found, range(x.shape[axis] - 1), axis)
        found = np.concatenate([np.full_like(np.take(x, [0], axis), int(product)), shifted], axis)
    return np.flip(found, axis) if reverse else found


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("symbolic", [False, True])
def test_sums(shape: tuple[int, ...], axis: int, symbolic: bool) -> None:
    x = np.random.default_rng(3).standard_normal(shape, np.float32)
    if x.size:
        x.flat[0] = -0.0
    ways = [(exclusive, reverse) for exclusive in (False, True) for reverse in (False, True)]
    nodes = [node("CumSum", "x k", f"y{i}", exclusive=int(e), reverse=int(r)) for i, (e, r) in enumerate(ways)]
    like = {f"y{i}": x for i in range(4)}
    got = run(model_with(nodes, {"x": x}, {"k": np.array(axis)}, symbolic=symbolic, like=like), {"x": x})
    for i, (exclusive, reverse) in enumerate(ways):
        want = totals(x, axis, exclusive, reverse, False)
        np.testing.assert_allclose(got[f"y{i}"], want, 1e-5, 1e-4)
        if not exclusive:  # where one begins with 0, that is added to
            np.testing.assert_array_equal(np.signbit(got[f"y{i}"][want == 0]), np.signbit(want[want == 0]))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64])
@pytest.mark.parametrize("axis", [0, 2])
def test_types(dtype: type, axis: int) -> None:
    x = np.random.default_rng(4).integers(-3, 4, (5, 6, 21)).astype(dtype)
    got = run(model_with([node("CumSum", "x k", "y")], {"x": x}, {"k": np.array(axis)}), {"x": x})
    np.testing.assert_array_equal(got["y"], np.cumsum(x, axis, dtype))


def test_a_sum_that_is_no_number_stays_so() -> None:
    x = np.ones((9, 40), np.float32)
    x[3, 7], x[4, 9], x[4, 20] = np.nan, np.inf, -np.inf
    for axis in (0, 1):
        got = run(model_with([node("CumSum", "x k", "y")], {"x": x}, {"k": np.array(axis)}), {"x": x})
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(got["y"], np.cumsum(x, axis, np.float32))

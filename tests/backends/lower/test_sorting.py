"""Sorting by keys of 32 bits: TopK against a stable sort, suppression against a plain loop over boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnx.helper import np_dtype_to_tensor_dtype

import graphopt

Array = np.ndarray


def model_of(
    nodes: list[Any], inputs: dict[str, tuple[Any, Any]], constants: dict[str, Array], outputs: list[str]
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, np_dtype_to_tensor_dtype(np.dtype(t)), s) for n, (t, s) in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def awkward(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Few different values, so that there are ties; of floats, all that compares in its own way."""
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.choice(np.array([info.min, info.max, 0, 1, info.max // 2, 3], dtype), shape)
    values = rng.standard_normal(shape).astype(dtype)
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7, -1e-7, 1.5], dtype)
    return np.where(rng.random(shape) < 0.4, rng.choice(special, shape), values)


def best(x: Array, k: int, axis: int, largest: bool) -> Array:
    """Positions: NaN is the greatest number, and of equal elements the first one comes first."""
    if x.dtype.kind == "f":
        keys = [np.isnan(x).astype(np.int64), np.where(np.isnan(x), 0, x.astype(np.float64)) + 0.0]
    else:
        keys = [x.astype(np.int64)]
    if largest:
        keys = [-key if key.dtype.kind == "f" else ~key for key in keys]
    return np.take(np.lexsort(keys[::-1], axis=axis), range(k), axis=axis)


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "float16",
        "uint8",
        "uint32",
        "int64",
        *(pytest.param(t, marks=pytest.mark.slow) for t in ("int8", "int32")),
    ],
)
@pytest.mark.few(3)
def test_the_best_of_rows(dtype: str) -> None:
    shape = (3, 90, 5)
    x = awkward(np.random.default_rng(len(dtype)), shape, dtype)
    nodes, constants, outputs, cases = [], {}, [], []
    # few are kept in order, many collected, and more than half sorted
    for n, (k, axis, largest) in enumerate(
        [(1, 1, 1), (5, 1, 0), (16, 1, 1), (20, 1, 0), (70, 1, 1), (3, 2, 1), (90, 1, 0)]
    ):
        constants[f"k{n}"] = np.array([k], np.int64)
        outputs += [f"v{n}", f"i{n}"]
        nodes.append(helper.make_node("TopK", ["x", f"k{n}"], outputs[-2:], axis=axis, largest=largest))
        cases.append((k, axis, bool(largest)))
    model = model_of(nodes, {"x": (dtype, shape)}, constants, outputs)
    got = graphopt.compile(model.SerializeToString(), "native", threads=2).run({"x": x})
    for n, (k, axis, largest) in enumerate(cases):
        want = best(x, k, axis, largest)
        np.testing.assert_array_equal(got[f"i{n}"], want, err_msg=str(cases[n]))
        np.testing.assert_array_equal(got[f"v{n}"], np.take_along_axis(x, want, axis))


def test_a_long_row_by_threads_and_how_many_is_known_at_run_time() -> None:
    rng = np.random.default_rng(7)
    x = np.round(rng.standard_normal((2, 30000)), 2).astype(np.float32)
    x[0] = np.sort(x[0])  # the best come last: the worse half is dropped again and again
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["a", "b"]),
        helper.make_node("TopK", ["x", "c"], ["d", "e"], largest=0),
    ]
    constants = {"c": np.array([700], np.int64)}
    inputs = {"x": ("float32", ("n", "m")), "k": ("int64", (1,))}
    model = model_of(nodes, inputs, constants, ["a", "b", "d", "e"])
    compiled = graphopt.compile(model.SerializeToString(), "native", threads=2)
    for k in (0, 1, 700, 30000):
        got = compiled.run({"x": x, "k": np.array([k], np.int64)})
        np.testing.assert_array_equal(got["b"], best(x, k, 1, True))
    np.testing.assert_array_equal(got["e"], best(x, 700, 1, False))


def suppressed(boxes: Array, scores: Array, most: int, overlap: float, least: float) -> Array:
    """What ONNX defines, a pair of boxes at a time; corners in either order."""
    out = []
    low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])
    for batch, cls in np.ndindex(*scores.shape[:2]):
        order = [i for i in np.argsort(-scores[batch, cls], kind="stable") if scores[batch, cls, i] > least]
        kept: list[int] = []
        for i in order:
            if len(kept) == most:
                break
            sides = np.minimum(high[batch, i], high[batch, kept]) - np.maximum(low[batch, i], low[batch, kept])
            both = np.where((sides > 0).all(-1), sides.prod(-1), 0)
            area = (high[batch, i] - low[batch, i]).prod() + (high[batch, kept] - low[batch, kept]).prod(-1)
            if not (both / np.maximum(area - both, 1e-30) > overlap).any():
                kept.append(int(i))
        out += [(batch, cls, i) for i in kept]
    return np.array(out).reshape(-1, 3)


@pytest.mark.parametrize("count", [1, 700])
def test_suppression_of_many_boxes_by_threads(count: int) -> None:
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, 60, (2, count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(2, 40, (2, count, 2))], -1).astype(np.float32)
    boxes[:, ::3] = boxes[:, ::3, [2, 1, 0, 3]]
    scores = np.round(rng.random((2, 15, count)), 2).astype(np.float32)  # with ties
    nodes = [helper.make_node("NonMaxSuppression", ["b", "p", "m", "o", "s"], ["y"])]
    constants = {"o": np.array([0.4], np.float32), "s": np.array([0.3], np.float32)}
    inputs = {"b": ("float32", (2, "n", 4)), "p": ("float32", (2, 15, "n")), "m": ("int64", (1,))}
    compiled = graphopt.compile(model_of(nodes, inputs, constants, ["y"]).SerializeToString(), "native", threads=2)
    for most in (40, 3, 0):
        got = compiled.run({"b": boxes, "p": scores, "m": np.array([most])})["y"]
        np.testing.assert_array_equal(got, suppressed(boxes.astype(np.float64), scores, most, 0.4, np.float32(0.3)))

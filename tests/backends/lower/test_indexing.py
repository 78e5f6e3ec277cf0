"""Gather, scatter, sorting, suppression and sampling against ONNX's reference or numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import InputError, ModelError
from tests.support.run_node import check, model_with, node, run

RNG = np.random.default_rng(11)


def _i64(*values: int) -> Any:
    return np.array(values, np.int64)


def _floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def test_gather_by_scalars_matrices_and_negative_indices() -> None:
    nodes = [
        node("Gather", "x i", "a", axis=0), node("Gather", "x j", "b", axis=-1), node("Gather", "x s", "c", axis=1),
        node("Gather", "x k", "d", axis=1),
    ]  # fmt: skip
    feed = {
        "x": _floats(5, 3, 7),
        "i": _i64(-5, 4, 0),
        "j": np.array([[0, -1], [6, 3]], np.int32),
        "s": np.array(-3, np.int64),
    }
    check(nodes, {**feed, "k": np.zeros((0,), np.int64)})


@pytest.mark.parametrize("value", [4, -5, 10**12, -(2**63)])
@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"])
def test_indices_out_of_range_are_refused(op: str, value: int) -> None:
    index = np.array([[0], [value]], np.int64)
    feed = {"x": _floats(4, 1), "i": index, **({"u": _floats(2, 1)} if op.startswith("Scatter") else {})}
    made = model_with([node(op, " ".join(feed), "y")], feed)
    with pytest.raises(InputError, match=rf"i = {value}, least = -4, most = 3"):
        run(made, feed)


def test_constant_indices_out_of_range_are_refused_when_compiling() -> None:
    with pytest.raises(ModelError, match="holds 4"):
        run(model_with([node("GatherElements", "x i", "y")], {"x": _floats(4, 1)}, {"i": _i64(4).reshape(1, 1)}), {})


def test_gather_elements_and_tuples() -> None:
    nodes = [
        node("GatherElements", "x e", "a", axis=1), node("GatherND", "x n", "b"), node("GatherND", "x m", "c", batch_dims=1),
    ]  # fmt: skip
    feed = {
        "x": _floats(3, 4, 5), "e": RNG.integers(-4, 4, (3, 6, 5)), "n": np.array([[0, -1], [2, 3]], np.int64),
        "m": np.array([[[1, -2]], [[0, 0]], [[3, 4]]], np.int64),
    }  # fmt: skip
    check(nodes, feed)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_scatter(reduction: str, dtype: Any) -> None:
    distinct = reduction == "none"
    rows = np.stack([RNG.permutation(4)[:3] for _ in range(6)], 1) if distinct else RNG.integers(-4, 4, (3, 6))
    feed = {
        "x": RNG.integers(-9, 9, (4, 6)).astype(dtype), "i": rows.astype(np.int64), "u": RNG.integers(-9, 9, (3, 6)).astype(dtype),
        "n": np.array([[1], [-1], [1 if not distinct else 0]], np.int64), "v": RNG.integers(-9, 9, (3, 6)).astype(dtype),
    }  # fmt: skip
    nodes = [
        node("ScatterElements", "x i u", "y", axis=0, reduction=reduction),
        node("ScatterND", "x n v", "z", reduction=reduction),
    ]
    check(nodes, feed)


def test_of_duplicates_the_last_wins() -> None:
    x = np.zeros((2, 3), np.float32)
    index = np.array([[1, 1, 0], [1, -1, -2]], np.int64)
    feed = {"x": x, "i": index, "u": np.arange(6, dtype=np.float32).reshape(2, 3)}
    want = np.array([[0, 0, 5], [3, 4, 0]], np.float32)
    check([node("ScatterElements", "x i u", "y", axis=0)], feed, want={"y": want})


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_cache_updates(mode: str) -> None:
    feed = {"x": _floats(2, 3, 5, 4), "u": _floats(2, 3, 2, 4), "i": _i64(1, 3 if mode == "linear" else 4)}
    check([node("TensorScatter", "x u i", "y", mode=mode)], feed, opset=24)


@pytest.mark.parametrize("largest", [0, 1])
def test_topk_with_ties(largest: int) -> None:
    x = RNG.integers(0, 6, (4, 33)).astype(np.float32)
    x[0, 3], x[1, 5] = np.inf, -np.inf
    nodes = [
        node("TopK", "x k", "a b", axis=1, largest=largest), node("TopK", "x m", "c d", axis=0, largest=largest),
        node("TopK", "x o", "e f", axis=-1, largest=largest), node("TopK", "z k", "g h", largest=largest),
    ]  # fmt: skip
    feed = {"x": x, "z": RNG.integers(-100, 100, (7,)).astype(np.int64)}
    check(nodes, feed, {"k": _i64(5), "m": _i64(4), "o": _i64(33)})


@pytest.mark.parametrize("largest", [0, 1])
def test_topk_of_many(largest: int) -> None:
    x = RNG.integers(0, 40, (3, 257)).astype(np.float32)
    nodes = [node("TopK", f"x k{k}", f"a{k} b{k}", largest=largest) for k in (1, 2, 7, 64)]
    check(nodes, {"x": x}, {f"k{k}": _i64(k) for k in (1, 2, 7, 64)})


def test_compress_and_nonzero() -> None:
    keep = np.array([True, False, True, True], np.bool_)
    for n, feed in (
        (node("Compress", "x c", "y", axis=0), {"x": _floats(4, 3), "c": keep}),
        (node("Compress", "x c", "y"), {"x": _floats(4, 3), "c": keep}),
        (node("Compress", "x c", "y", axis=1), {"x": _floats(2, 5), "c": keep & False}),
        (node("NonZero", "x", "y"), {"x": RNG.integers(0, 2, (3, 4, 5)).astype(np.int32)}),
        (node("NonZero", "x", "y"), {"x": np.zeros((2, 3), np.float32)}),
    ):
        check([n], feed)


def test_unique_sorted_and_in_order_of_occurrence() -> None:
    x = np.array([[2, 1, 1, 2], [3, 0, 0, 3], [2, 1, 1, 2]], np.float32)
    check([node("Unique", "x", "y i v c", sorted=1)], {"x": x})
    check([node("Unique", "x", "y i v c", sorted=0)], {"x": x[1] * -2})
    check([node("Unique", "x", "y i v c", axis=1)], {"x": x})


def test_max_unpool() -> None:
    x, i = np.array([[[[1, 2], [3, 4]]]], np.float32), np.array([[[[5, 7], [13, 15]]]], np.int64)
    check([node("MaxUnpool", "x i", "y", kernel_shape=[2, 2], strides=[2, 2])], {"x": x, "i": i})


def test_columns_to_image() -> None:
    nodes = [node("Col2Im", "c s b", "z", pads=[1, 0, 1, 0], strides=[1, 2], dilations=[1, 1])]
    check(nodes, {"c": _floats(2, 12, 12)}, {"s": _i64(5, 6), "b": _i64(2, 3)})


def test_suppression() -> None:
    corners = RNG.random((2, 12, 2)).astype(np.float32) * 3
    boxes = np.concatenate([corners, corners + 1 + RNG.random((2, 12, 2)).astype(np.float32)], -1)
    flipped = boxes[..., [2, 1, 0, 3]]
    scores = RNG.random((2, 3, 12)).astype(np.float32)
    consts = {"m": _i64(4), "o": np.array([0.3], np.float32), "s": np.array([0.25], np.float32)}
    check([node("NonMaxSuppression", "b p m o s", "y")], {"b": flipped, "p": scores}, consts)
    check([node("NonMaxSuppression", "b p m o", "y", center_point_box=1)], {"b": boxes, "p": scores}, consts)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample(mode: str, padding: str) -> None:
    grid = (RNG.random((2, 3, 4, 2)).astype(np.float32) - 0.5) * 3.1
    nodes = [node("GridSample", "x g", f"y{a}", mode=mode, padding_mode=padding, align_corners=a) for a in (0, 1)]
    check(nodes, {"x": _floats(2, 3, 5, 6), "g": grid}, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "size", "points", "symbolic", "modes"),
    [
        (9, (7, 5), (33, 40), False, ["linear", "nearest", "cubic"]),
        (9, (7, 5), (33, 40), True, ["linear"]),
        (2, (4, 5, 3), (3, 2, 9), False, ["linear", "nearest"]),
        (4, (6,), (11,), True, ["linear", "nearest"]),
        pytest.param(9, (7, 5), (33, 40), True, ["cubic", "nearest"], marks=pytest.mark.slow),
        pytest.param(2, (4, 5, 3), (3, 2, 9), True, ["linear", "nearest"], marks=pytest.mark.slow),
    ],
)
@pytest.mark.few(2)
def test_grid_sample_of_many_channels(
    channels: int, size: tuple[int, ...], points: tuple[int, ...], symbolic: bool, modes: list[str]
) -> None:
    grid = (RNG.random((2, *points, len(size))).astype(np.float32) - 0.5) * 2.6
    nodes = [node("GridSample", "x g", f"y{i}", mode=mode) for i, mode in enumerate(modes)]
    check(nodes, {"x": _floats(2, channels, *size), "g": grid}, rtol=1e-4, atol=1e-4, symbolic=symbolic)


def test_pixels_outside_count_as_nothing_even_beside_what_is_infinite() -> None:
    x = np.full((1, 2, 3, 3), np.inf, np.float32)
    x[:, :, 1, 1] = 2
    far = np.array([[[[-3, -3], [2, 0], [0, 0], [0, -5]]]], np.float32)
    check([node("GridSample", "x g", "y", align_corners=1, mode="nearest")], {"x": x, "g": far})
    edge = np.array([[[[-3, 0], [0, 3]]]], np.float32)
    check(
        [node("GridSample", "x g", "y", align_corners=1)],
        {"x": x, "g": edge},
        want={"y": np.zeros((1, 2, 1, 2), np.float32)},
    )


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_positions_that_are_no_numbers_read_nothing_else(padding: str) -> None:
    values = [np.nan, np.inf, -np.inf, 1e30]
    grid = np.zeros((len(values), 1, 6, 2), np.float32)
    grid[:, 0, 2, 1] = values
    nodes = [
        node("GridSample", "x g", f"y{i}", mode=mode, padding_mode=padding)
        for i, mode in enumerate(["linear", "nearest"])
    ]
    feed = {"x": _floats(len(values), 5, 3, 3), "g": grid}
    got = run(model_with(nodes, feed), feed)
    for i in range(2):  # the others are as they were
        np.testing.assert_allclose(np.delete(got[f"y{i}"], 2, -1), np.repeat(feed["x"][:, :, 1:2, 1:2], 5, -1), 1e-6)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mode: str) -> None:
    rois = np.array([[0, 0, 6, 5], [1.5, 2.5, 9, 12], [-4, -4, 1, 1]], np.float32)
    nodes = [
        node("RoiAlign", "x r b", f"y{n}", mode=mode, output_height=2, output_width=3, sampling_ratio=s, spatial_scale=0.7,
             coordinate_transformation_mode=t)
        for n, (s, t) in enumerate([(2, "half_pixel"), (0, "output_half_pixel")])
    ]  # fmt: skip
    check(nodes, {"x": _floats(2, 2, 8, 9), "r": rois, "b": _i64(1, 0, 1)}, rtol=1e-4, atol=1e-5)


def test_max_roi_pool() -> None:
    x = np.arange(2 * 6 * 6, dtype=np.float32).reshape(1, 2, 6, 6)
    rois = np.array([[0, 0, 0, 3, 3], [0, 2, 1, 5, 5]], np.float32)
    want = np.stack([_bins(x[0], r) for r in rois])
    check([node("MaxRoiPool", "x r", "y", pooled_shape=[2, 2])], {"x": x, "r": rois}, want={"y": want})


def test_an_empty_axis_beside_the_one_that_is_searched() -> None:
    x = np.zeros((3, 0, 4, 2), np.float32)
    nodes = [
        node("TopK", "x k", "a b", axis=0), node("CumSum", "x axis", "c"), node("ArgMax", "x", "d", axis=2),
    ]  # fmt: skip
    check(nodes, {"x": x}, {"k": _i64(2), "axis": np.array(2)})


def _bins(x: Any, roi: Any) -> Any:
    """2 x 2 maxima of a region whose corners are whole numbers."""
    left, top, right, bottom = (int(v) for v in roi[1:])
    rows, cols = (bottom - top + 1) / 2, (right - left + 1) / 2
    out = np.zeros((x.shape[0], 2, 2), np.float32)
    for i in range(2):
        for j in range(2):
            part = x[
                :,
                top + int(i * rows) : top + int(np.ceil((i + 1) * rows)),
                left + int(j * cols) : left + int(np.ceil((j + 1) * cols)),
            ]
            out[:, i, j] = part.max((1, 2))
    return out

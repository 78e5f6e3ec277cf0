"""What exporters write for transformers of dynamic batch, length and cache, against ONNX's reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import graphopt
from tests.support.tolerance import assert_close

Inputs = dict[str, tuple[int, tuple[int | str, ...]]]
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
LEVELS = (0, 2)


class Writer:
    """Collects nodes; every method call adds one and returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.consts: list[Any] = []

    def __getattr__(self, op: str) -> Callable[..., Any]:
        def add(*inputs: Any, outputs: int = 1, **attrs: Any) -> Any:
            names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
            self.nodes.append(helper.make_node(op, [self.name(x) for x in inputs], names, **attrs))
            return names[0] if outputs == 1 else names

        return add

    def name(self, x: Any) -> str:
        """The value's name; anything but a name becomes a constant."""
        if isinstance(x, str):
            return x
        name = f"c{len(self.consts)}"
        self.consts.append(onnx.numpy_helper.from_array(np.asarray(x), name))
        return name

    def result(self, name: str, x: str) -> None:
        """``x`` leaves the graph under another name."""
        self.nodes.append(helper.make_node("Identity", [x], [name]))

    def dim(self, x: str, axis: int) -> str:
        """One dimension as a vector of one element, as the TorchScript exporter reads it."""
        return str(self.Unsqueeze(self.Gather(self.Shape(x), axis), [0]))

    def expand(self, x: str, sizes: str, rank: int) -> str:
        """``x.expand(sizes)`` of the TorchScript exporter, -1 keeping the extent."""
        ones = self.ConstantOfShape([rank], value=one(1))
        return str(self.Expand(x, self.Where(self.Equal(sizes, self.Mul(ones, -1)), ones, sizes)))


def one(value: Any) -> Any:
    """A tensor of one element, as the attribute of ConstantOfShape."""
    return onnx.numpy_helper.from_array(np.array([value]))


Build = Callable[[Writer], dict[str, tuple[int, int]]]


def made(inputs: Inputs, build: Build) -> Any:
    w = Writer()
    outputs = build(w)
    graph = helper.make_graph(
        w.nodes, "exported", [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, [f"{n}_{i}" for i in range(r)]) for n, (t, r) in outputs.items()], w.consts,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def llama_cache(w: Writer) -> dict[str, tuple[int, int]]:
    """Attention over a cache of keys and values: a causal mask of the run-time length, expanded and added to the padding."""
    heads, size = 2, 8
    past, length = w.dim("past_key", 2), w.dim("x", 1)
    total = w.Add(past, length)
    cosine, sine = (
        w.Slice(np.linspace(0, v, 64 * size, dtype=np.float32).reshape(64, size), past, total, [0]) for v in (1, 2)
    )

    def split(weight: int) -> str:
        projected = w.MatMul("x", np.random.default_rng(weight).normal(size=(16, 16)).astype(np.float32) / 4)
        shaped = w.Reshape(projected, w.Concat(w.dim("x", 0), length, [heads], [size], axis=0))
        return str(w.Transpose(shaped, perm=[0, 2, 1, 3]))

    def rotated(x: str) -> str:
        first, second = w.Slice(x, [0], [size // 2], [3]), w.Slice(x, [size // 2], [2**63 - 1], [3])
        half = w.Concat(w.Neg(second), first, axis=-1)
        return str(w.Add(w.Mul(x, cosine), w.Mul(half, sine)))

    key = w.Concat("past_key", rotated(split(1)), axis=2)
    value = w.Concat("past_value", split(2), axis=2)
    w.nodes += [helper.make_node("Identity", [key], ["key"]), helper.make_node("Identity", [value], ["value"])]
    scores = w.Mul(w.MatMul(rotated(split(0)), w.Transpose(key, perm=[0, 1, 3, 2])), np.float32(size**-0.5))
    rows = w.Range(w.Squeeze(past), w.Squeeze(total), np.array(1))
    columns = w.Range(np.array(0), w.Squeeze(total), np.array(1))
    future = w.Greater(w.Unsqueeze(columns, [0]), w.Unsqueeze(rows, [1]))
    causal = w.Where(future, np.float32(-1e9), np.float32(0))
    sizes = w.Concat(w.dim("x", 0), [1], [-1], [-1], axis=0)
    causal = w.expand(w.Unsqueeze(causal, [0, 1]), sizes, 4)
    padding = w.Cast(w.Unsqueeze("attention_mask", [1, 2]), to=FLOAT)
    masked = w.Add(causal, w.Mul(w.Sub(np.float32(1), padding), np.float32(-1e9)))
    weights = w.Softmax(w.Add(scores, masked), axis=-1)
    merged = w.Reshape(w.Transpose(w.MatMul(weights, value), perm=[0, 2, 1, 3]), [0, 0, heads * size])
    w.nodes.append(helper.make_node("Identity", [merged], ["out"]))
    return {"out": (FLOAT, 3), "key": (FLOAT, 4), "value": (FLOAT, 4)}


LLAMA: Inputs = {
    "x": (FLOAT, ("batch", "length", 16)), "attention_mask": (INT, ("mask_batch", "total")),
    "past_key": (FLOAT, ("batch", 2, "past", 8)), "past_value": (FLOAT, ("batch", 2, "past", 8)),
}  # fmt: skip


def heads_of(w: Writer) -> dict[str, tuple[int, int]]:
    """Positions of run-time extent added to four of each: ``S`` is the number of heads or 1."""
    w.nodes.append(helper.make_node("Add", ["x", "bias"], ["out"]))
    return {"out": (FLOAT, 3)}


def expanded(w: Writer) -> dict[str, tuple[int, int]]:
    """``x.expand(-1, n, -1)`` and ``x.expand_as(y)`` of the TorchScript exporter."""
    sizes = w.Concat([-1], w.dim("y", 1), [-1], axis=0)
    w.nodes.append(helper.make_node("Add", [w.expand("x", sizes, 3), "y"], ["out"]))
    w.nodes.append(helper.make_node("Expand", ["x", w.Shape("y")], ["as"]))
    return {"out": (FLOAT, 3), "as": (FLOAT, 3)}


def masks_and_positions(w: Writer) -> dict[str, tuple[int, int]]:
    """Positions counted by CumSum, a causal mask by Trilu and by comparing ranges, padding expanded over it."""
    batch, length = w.dim("ids", 0), w.dim("ids", 1)
    counted = w.Cast(w.Cast("mask", to=TensorProto.BOOL), to=INT)
    positions = w.Where(w.Equal(counted, 0), 1, w.Sub(w.CumSum(counted, 1), 1))
    table = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    w.result("embedded", w.Gather(table, positions))
    low = w.ConstantOfShape(w.Concat(length, length, axis=0), value=one(np.float32(-1e9)))
    upper = w.Trilu(low, 1, upper=1)
    steps = w.Range(np.array(0), w.Squeeze(length), np.array(1))
    seen = w.Less(steps, w.Reshape(w.Add(steps, 1), w.Concat(length, [1], axis=0)))
    causal = w.Where(seen, np.float32(0), upper)
    sizes = w.Concat(batch, [1], length, length, axis=0)
    causal = w.expand(w.Unsqueeze(causal, [0, 1]), sizes, 4)
    padding = w.Cast(w.Expand(w.Unsqueeze("mask", [1, 2]), sizes), to=TensorProto.BOOL)
    w.result("masked", w.Where(padding, causal, np.float32(-1e9)))
    return {"embedded": (FLOAT, 3), "masked": (FLOAT, 4)}


def tokens_and_tables(w: Writer) -> dict[str, tuple[int, int]]:
    """ScatterND over a Range, class tokens by Expand and Tile, a slice of a table, Split and Reshape by computed sizes."""
    batch = w.dim("x", 0)
    zeros = w.ConstantOfShape(w.Shape("x"), value=one(np.float32(0)))
    rows = w.Reshape(w.Range(np.array(0), w.Squeeze(batch), np.array(1)), [-1, 1])
    scattered = w.ScatterND(zeros, rows, w.Mul("x", np.float32(2)))
    token = np.ones((1, 1, 6), np.float32)
    sizes = w.Concat(batch, [1], [1], axis=0)
    expanded_token = w.Concat(w.Expand(token, sizes), scattered, axis=1)
    tiled_token = w.Concat(w.Tile(token, sizes), scattered, axis=1)
    table = np.random.default_rng(0).normal(size=(1, 64, 6)).astype(np.float32)
    length = w.dim(expanded_token, 1)
    placed = w.Add(expanded_token, w.Slice(table, [0], length, [1]))
    half = w.Div(length, 2)
    first, second = w.Split(
        w.Add(placed, tiled_token), w.Concat(half, w.Sub(length, half), axis=0), axis=1, outputs=2
    )  # fmt: skip
    w.result("first", w.ReduceSum(first, [1]))
    w.result("second", second)
    heads = w.Reshape(placed, w.Concat([0], w.Mul(length, 1), [2], [-1], axis=0))
    w.result("heads", w.Transpose(heads, perm=[0, 2, 1, 3]))
    return {"first": (FLOAT, 3), "second": (FLOAT, 3), "heads": (FLOAT, 4)}


def interpolated(w: Writer) -> dict[str, tuple[int, int]]:
    """Resize to sizes computed in floats, to another image's size, and windows of an image padded to a multiple of 4."""

    def scaled(axis: int, factor: float) -> str:
        size = w.Mul(w.Cast(w.dim("image", axis), to=FLOAT), np.array([factor], np.float32))
        return str(w.Cast(w.Floor(size), to=INT))

    lead = w.Slice(w.Shape("image"), [0], [2])
    target = w.Concat(lead, scaled(2, 2.0), scaled(3, 1.5), axis=0)
    half_pixel = {"coordinate_transformation_mode": "half_pixel"}
    w.result("up", w.Resize("image", "", "", target, mode="linear", **half_pixel))
    like = w.Concat(w.Slice(w.Shape("small"), [0], [2]), w.Slice(w.Shape("image"), [2], [4]), axis=0)
    nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    w.result("pyramid", w.Add("image", w.Resize("small", "", "", like, mode="nearest", **nearest)))
    height, width = w.dim("image", 2), w.dim("image", 3)
    below = w.Sub(w.Mul(w.Div(w.Add(height, 3), 4), 4), height)
    beside = w.Mod(w.Sub([4], w.Mod(width, 4)), 4)
    padded = w.Pad("image", w.Concat([0, 0, 0, 0, 0, 0], below, beside, axis=0))
    rows, columns = w.Div(w.dim(padded, 2), 4), w.Div(w.dim(padded, 3), 4)
    cut = w.Reshape(padded, w.Concat(w.dim(padded, 0), [3], rows, [4], columns, [4], axis=0))
    w.result("windows", w.Softmax(w.Reshape(w.Transpose(cut, perm=[0, 2, 4, 3, 5, 1]), [-1, 16, 3]), axis=-1))
    return {"up": (FLOAT, 4), "pyramid": (FLOAT, 4), "windows": (FLOAT, 3)}


def cache_positions(w: Writer) -> dict[str, tuple[int, int]]:
    """A buffer's causal mask cut by the cache's length, Trilu with a diagonal of run time, the last token."""
    past, length = w.dim("past", 1), w.dim("x", 1)
    total = w.Add(past, length)
    cut = w.Slice(w.Slice(np.tril(np.ones((1, 1, 64, 64), bool)), past, total, [2]), [0], total, [3])
    ones = w.ConstantOfShape(w.Concat(length, total, axis=0), value=one(np.float32(1)))
    future = w.Trilu(ones, w.Squeeze(w.Add(past, 1)), upper=1)
    scores = w.MatMul("x", w.Transpose(w.Concat("past", "x", axis=1), perm=[0, 2, 1]))
    seen = w.Where(w.Squeeze(cut, [0]), scores, np.float32(np.finfo(np.float32).min))
    w.result("weights", w.Softmax(w.Sub(seen, w.Mul(future, np.float32(3))), axis=-1))
    w.result("last", w.Gather("x", w.Sub(w.Squeeze(length), 1), axis=1))
    w.result("end", w.ArgMax(w.ReduceSum("x", [2], keepdims=0), axis=-1, keepdims=0))
    return {"weights": (FLOAT, 3), "last": (FLOAT, 2), "end": (INT, 1)}


@cache
def built(build: Build, level: int) -> tuple[Any, ReferenceEvaluator]:
    model = made(CASES[build], build)
    return graphopt.compile(model, "x86", threads=2, level=level), ReferenceEvaluator(model)


def open_ended(w: Writer) -> dict[str, tuple[int, int]]:
    """Slices of tf2onnx that end at 10**9, and a length modulo a large number: what they may take at most isn't allocated."""
    head = w.Slice("x", [0, 0, 0], [10**9, 10**9, 10**9], [0, 1, 2])
    part = w.Slice("x", [0], w.Mod(w.dim("x", 1), [10**9]), [1])
    scaled = w.Relu(w.MatMul(w.Softmax(head, axis=-1), w.Transpose(part, perm=[0, 2, 1])))
    w.result("out", w.Concat(scaled, w.MatMul(head, w.Transpose(head, perm=[0, 2, 1])), axis=-1))
    return {"out": (FLOAT, 3)}


CASES: dict[Build, Inputs] = {
    open_ended: {"x": (FLOAT, ("B", "S", 6))},
    llama_cache: LLAMA,
    heads_of: {"x": (FLOAT, ("N", 4, 8)), "bias": (FLOAT, ("N", "S", 8))},
    expanded: {"x": (FLOAT, ("N", 1, 6)), "y": (FLOAT, ("M", "K", 6))},
    masks_and_positions: {"ids": (INT, ("B", "S")), "mask": (INT, ("B", "S"))},
    tokens_and_tables: {"x": (FLOAT, ("B", "S", 6))},
    interpolated: {"image": (FLOAT, ("B", 3, "H", "W")), "small": (FLOAT, ("B", 3, "h", "w"))},
    cache_positions: {"x": (FLOAT, ("B", "S", 8)), "past": (FLOAT, ("B", "P", 8))},
}


def compare(build: Build, level: int, sizes: dict[str, int]) -> None:
    compiled, reference = built(build, level)
    rng = np.random.default_rng(0)
    feed = {}
    for name, (type_, shape) in CASES[build].items():
        extents = [sizes[d] if isinstance(d, str) else d for d in shape]
        feed[name] = (
            rng.normal(size=extents).astype(np.float32)
            if type_ == FLOAT
            else np.tril(np.ones(extents, np.int64), extents[-1] - 2)
        )
    got = compiled.run(feed)
    for name, want in zip(reference.output_names, reference.run(None, feed)):
        assert got[name].shape == want.shape
        assert_close(got[name], want, reduction=64)


@pytest.mark.parametrize("level", [pytest.param(0, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(
    ("batch", "mask_batch", "length", "past"), [(1, 1, 1, 7), (2, 2, 1, 7), (3, 1, 5, 0), (1, 1, 1, 0), (2, 2, 4, 9)]
)
@pytest.mark.few(2)
def test_llama_with_a_cache(level: int, batch: int, mask_batch: int, length: int, past: int) -> None:
    compare(
        llama_cache, level,
        {"batch": batch, "mask_batch": mask_batch, "length": length, "past": past, "total": length + past},
    )  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("n", "s"), [(1, 1), (3, 4), (3, 1), (0, 1)])
def test_one_or_all_heads(level: int, n: int, s: int) -> None:
    compare(heads_of, level, {"N": n, "S": s})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (2, 2, 5), (1, 3, 4), (3, 1, 2)])
def test_expand_of_torchscript(level: int, n: int, m: int, k: int) -> None:
    compare(expanded, level, {"N": n, "M": m, "K": k})


IMAGES = [(1, 8, 12, 4, 6), (2, 7, 9, 3, 5), (1, 1, 1, 1, 1)]
RUNS: list[tuple[Build, dict[str, int]]] = [
    *((masks_and_positions, {"B": b, "S": s}) for b, s in ((1, 1), (2, 7), (3, 1))),
    *((tokens_and_tables, {"B": b, "S": s}) for b, s in ((1, 1), (2, 7), (1, 4))),
    *((interpolated, dict(zip("BHWhw", sizes))) for sizes in IMAGES),
    *((open_ended, {"B": b, "S": s}) for b, s in ((1, 1), (2, 7))),
    *((cache_positions, {"B": b, "S": s, "P": p}) for b, s, p in ((2, 1, 5), (1, 4, 0), (3, 1, 0), (1, 5, 7))),
]


@pytest.mark.parametrize("level", [pytest.param(0, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(("build", "sizes"), RUNS)
@pytest.mark.few(7)
def test_shape_arithmetic_of_exporters(level: int, build: Build, sizes: dict[str, int]) -> None:
    compare(build, level, sizes)

"""Element-wise kernels, copies, hand-written stages on a simulated GPU: widths of access, tails, operands that are broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

pytest.importorskip("ziglang")

from tests.support.cuda_on_cpu.gpu import run_on_simulated_gpu
from tests.support.many_nodes import Array, Fixed, ManyNodes

TYPES = (np.float32, np.float16, bfloat16)


def _numbers(shape: Sequence[int], dtype: Any, *, spread: float = 1.0, seed: int = 0) -> Array:
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * spread).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_broadcast_operands(dtype: Any) -> None:
    """Operands along the last axis, across it, single numbers, in between; extents that no access divides; unaligned rows."""
    nodes = ManyNodes()
    for shape, other in (
        ([2, 64, 128], [128]), ([2, 64, 128], [64, 1]), ([2, 64, 128], [2, 1, 128]), ([2, 64, 128], [1]), ([3, 5001], [1]),
        ([4, 3, 31, 7], [3, 1, 1]), ([4, 30, 33], [4, 30, 33]), ([7], [7]), ([1], [1]), ([64, 6], [64, 1]), ([5, 2, 3], [2, 1]),
    ):  # fmt: skip
        x, y = _numbers(shape, dtype), _numbers(other, dtype, seed=1)
        nodes.add("Add", x, y, want=np.add)
        nodes.add("Mul", y, x, want=np.multiply)
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))


def _erf(x: Array) -> Array:
    import math

    return np.vectorize(math.erf)(x)


FUNCTIONS: dict[str, tuple[Any, int]] = {
    "Exp": (np.exp, 2),
    "Log": (np.log, 2),
    "Tanh": (np.tanh, 2),
    "Erf": (_erf, 2),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3),
    "Softplus": (lambda x: np.logaddexp(0, x), 3),
    "Sin": (np.sin, 2),
    "Atan": (np.arctan, 2),
    "Sqrt": (np.sqrt, 1),
    "Relu": (lambda x: np.maximum(x, 0), 1),
    "Reciprocal": (lambda x: 1 / x, 1),
    "Round": (np.rint, 1),
    "Mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), 6),
}


@pytest.mark.parametrize("dtype", TYPES)
def test_functions(dtype: Any) -> None:
    """From numbers too small to be normal to those whose results overflow, infinities and NaN."""
    nodes = ManyNodes(22)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-7, 88.7, -88.7, -104.0, 3e38, 5.0, -9.0, 0.5], np.float32
    )
    with np.errstate(over="ignore"):
        x = np.concatenate([special, np.linspace(-30, 30, 493, dtype=np.float32)]).astype(dtype)
    for op, (function, depth) in FUNCTIONS.items():
        nodes.add(op, x, want=function, depth=depth)
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))


def test_numbers_of_other_widths() -> None:
    """Conversions between elements of 1 to 8 bytes, integers that wrap around, conditions."""
    nodes = ManyNodes()
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(3, 1001)) * 50).astype(np.float32)
    for code, dtype in ((3, np.int8), (10, np.float16), (11, np.float64), (7, np.int64), (6, np.int32)):
        nodes.add("Cast", x, to=code, outputs=(dtype,), want=lambda x, d=dtype: x.astype(np.float32).astype(d))
    bits = rng.integers(-128, 127, (4, 777), np.int8)
    nodes.add("Cast", bits, to=1, outputs=(np.float32,), want=lambda x: x)
    for dtype in (np.int32, np.int64, np.uint32):
        a, b = rng.integers(0, np.iinfo(dtype).max, (2, 5, 67), dtype)
        nodes.add("Add", a, b, want=lambda a, b: a + b)
        nodes.add("Mul", a, b, want=lambda a, b: a * b)
        nodes.add("Div", a, b // 1000 + 1, want=lambda a, b: a // b)
    nodes.add("Mod", x, np.roll(x, 1), want=np.mod, depth=4)
    beyond = [Fixed(np.array(v, np.int64)) for v in ([9], [12], [0])]
    nodes.add("Slice", x, *beyond, want=lambda x: x[9:12])  # of nothing, a launch that does nothing
    nodes.add("Greater", x, x[:1], outputs=(np.bool_,), want=np.greater)
    nodes.add("Where", x > 0, x, -x, want=lambda c, a, b: np.where(c, a, b), outputs=(np.float32,))
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.float64])
def test_copies(dtype: Any) -> None:
    """Transpositions by tiles, which extents don't divide, and others; joins, cuts and repetitions."""
    nodes = ManyNodes()
    rng = np.random.default_rng(7)

    def numbers(*shape: int) -> Array:
        return rng.integers(0, 200, shape).astype(dtype)

    for shape, order in (
        ([2, 70, 33], (0, 2, 1)), ([3, 40, 5, 50], (0, 3, 2, 1)), ([2, 65, 31, 3], (3, 1, 0, 2)), ([64, 3], (1, 0)),
        ([6, 5, 4, 128], (0, 2, 1, 3)), ([2, 9, 32, 64], (0, 2, 3, 1)),
    ):  # fmt: skip
        nodes.add("Transpose", numbers(*shape), perm=order, want=lambda x, p=order: np.transpose(x, p))
    nodes.add("Concat", numbers(2, 8, 16), numbers(2, 4, 16), axis=1, want=lambda *x: np.concatenate(x, 1))
    nodes.add("Concat", numbers(3, 7), numbers(3, 8), axis=1, want=lambda *x: np.concatenate(x, 1))
    slices = [Fixed(np.array(v, np.int64)) for v in ([8, 31], [64, -99], [1, 2], [2, -1])]
    nodes.add("Slice", numbers(3, 64, 32), *slices, want=lambda x: x[:, 8:64:2, 31::-1])
    nodes.add(
        "Expand", numbers(4, 1, 16), Fixed(np.array([2, 4, 5, 16])), want=lambda x: np.broadcast_to(x, (2, 4, 5, 16))
    )
    if dtype is np.float32:
        nodes.add(
            "Pad",
            numbers(2, 3, 30),
            Fixed(np.array([0, 1, 3, 0, 0, 4])),
            want=lambda x: np.pad(x, ((0, 0), (1, 0), (3, 4))),
        )
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))


def _top(x: Array, k: int, axis: int, largest: bool) -> tuple[Array, Array]:
    order = np.argsort(-x if largest else x, axis, kind="stable")
    kept = np.take(order, np.arange(k), axis)
    return np.take_along_axis(x, kept, axis), kept


def _gru(x: Array, w: Array, r: Array) -> Array:
    """A GRU, whose state each step reads and writes in one kernel."""

    def gate(n: int, data: Array, state: Array) -> Array:
        return data @ w[0, 5 * n : 5 * n + 5].T + state @ r[0, 5 * n : 5 * n + 5].T

    state, history = np.zeros((x.shape[1], 5)), []
    for data in x:
        update, reset = (1 / (1 + np.exp(-gate(n, data, state))) for n in (0, 1))
        state = (1 - update) * np.tanh(gate(2, data, reset * state)) + update * state
        history.append(state[None])
    return np.stack(history)


def test_hand_written_stages() -> None:
    """Sorting, running sums, scattering and compaction, with equal elements and places written to several times."""
    nodes = ManyNodes()
    rng = np.random.default_rng(9)
    x = np.round(rng.normal(size=(3, 90, 4)) * 4).astype(np.float32)
    for axis, k, largest in ((1, 7, True), (1, 90, False), (2, 1, True), (0, 2, True)):
        nodes.add("TopK", x, Fixed(np.array([k])), axis=axis, largest=int(largest), outputs=(None, np.int64),
                  want=lambda x, k=k, a=axis, g=largest: _top(x, k, a, g))  # fmt: skip
    for axis in (0, 1, 2):
        nodes.add("CumSum", x, Fixed(np.array(axis)), want=lambda x, a=axis: np.cumsum(x, a), reduction=90)

    rows = rng.normal(size=(5, 40)).astype(np.float32)
    once = np.argsort(rng.random((5, 12)), 1).astype(np.int64) * 3 - 40  # counted from the end
    often = rng.integers(0, 40, (5, 60))
    values = rng.normal(size=(5, 60)).astype(np.float32)

    def scattered(x: Array, updates: Array, index: Array, add: bool) -> Array:
        out, at = x.copy(), (np.arange(5)[:, None].repeat(index.shape[1], 1), index)
        if add:
            np.add.at(out, at, updates)
        else:
            out[at] = updates
        return out

    nodes.add("ScatterElements", rows, Fixed(once), values[:, :12].copy(), axis=1,
              want=lambda x, u: scattered(x, u, once, False))  # fmt: skip
    nodes.add("ScatterElements", rows, Fixed(often), values, axis=1, reduction_="add", reduction=60,
              want=lambda x, u: scattered(x, u, often, True))  # fmt: skip
    places, slices = np.array([[3], [1], [3]]), rng.normal(size=(3, 40)).astype(np.float32)

    def added(x: Array, u: Array) -> Array:
        out = x.copy()
        np.add.at(out, places[:, 0], u)
        return out

    nodes.add("ScatterND", rows, Fixed(places), slices, reduction_="add", depth=2, want=added)
    kept = rng.random(3000) < 0.1
    weights, recurrent = (rng.normal(size=(1, 15, d)).astype(np.float32) for d in (3, 5))
    nodes.add(
        "GRU",
        rng.normal(size=(4, 2, 3)).astype(np.float32),
        weights,
        recurrent,
        hidden_size=5,
        reduction=8,
        depth=16,
        want=_gru,
    )
    nodes.add("NonZero", kept, outputs=(np.int64,), want=lambda x: np.stack(np.nonzero(x)))
    nodes.add("Compress", rng.random((3000, 2)).astype(np.float32), kept, axis=0, want=lambda x, k: x[k])
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))

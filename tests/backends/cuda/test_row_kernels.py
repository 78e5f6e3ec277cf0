"""Softmax, normalisations and reductions on a simulated GPU: every way to share rows among threads, every type, in three orders."""

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
LONG: dict[Any, tuple[list[int], ...]] = {np.float32: ([1, 33000],)}
"""Rows that threads have no registers for."""


def _numbers(shape: Sequence[int], dtype: Any, *, spread: float = 1.0, around: float = 0.0, seed: int = 0) -> Array:
    rng = np.random.default_rng([seed, *shape])
    return (rng.normal(size=shape) * spread + around).astype(dtype)


def _softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _log_softmax(x: Array, axis: int = -1) -> Array:
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def _normalised(x: Array, axes: tuple[int, ...], *, centered: bool = True) -> Array:
    if centered:
        x = x - x.mean(axes, keepdims=True)
    return x / np.sqrt((x * x).mean(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize("dtype", TYPES)
def test_softmax(dtype: Any) -> None:
    """Short rows several a warp, rows of a warp, of blocks, too long for registers; lengths that 16 bytes don't divide; columns."""
    nodes = ManyNodes()
    for shape in ([3, 5, 7], [9, 64], [2, 3, 1000], [5, 333], [2, 4096], *LONG.get(dtype, ())):
        x = _numbers(shape, dtype, spread=4)
        nodes.add("Softmax", x, want=_softmax, reduction=shape[-1], depth=3)
        nodes.add("LogSoftmax", x, want=_log_softmax, reduction=shape[-1], depth=4)
    for shape, axis in (([2, 70, 33], 1), ([300, 40], 0), ([2, 3, 5, 2], 1)):
        x = _numbers(shape, dtype, spread=4)
        nodes.add("Softmax", x, want=lambda x, a=axis: _softmax(x, a), axis=axis, reduction=shape[axis], depth=3)
        nodes.add("LogSoftmax", x, want=lambda x, a=axis: _log_softmax(x, a), axis=axis, reduction=shape[axis], depth=4)
    # infinities, and a row without any number
    special = _numbers([6, 70], dtype, spread=30)
    special[0, 3], special[1, :], special[2, 69], special[3, 5] = np.nan, -np.inf, np.inf, -np.inf
    nodes.add("Softmax", special, want=_softmax, reduction=70, depth=3)
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))


@pytest.mark.parametrize("dtype", TYPES)
def test_normalisations(dtype: Any) -> None:
    """Data far from 0, where the mean of squares less the squared mean would have no digit left."""
    nodes = ManyNodes(23)
    for shape, axis in (
        ([3, 768], -1),
        ([5, 33], -1),
        ([2, 4, 24], -2),
        ([2, 3000], -1),
        *((shape, -1) for shape in LONG.get(dtype, ())),
    ):
        x = _numbers(shape, dtype, around=100)
        scale, bias = (_numbers(shape[axis:], dtype, seed=i, around=1) for i in (1, 2))
        axes = tuple(range(len(shape) + axis, len(shape)))
        count = int(np.prod(shape[axis:]))

        def layer(x: Array, s: Array, b: Array | float = 0.0, axes: tuple[int, ...] = axes) -> Array:
            return _normalised(x, axes) * s + b

        def rms(x: Array, s: Array, axes: tuple[int, ...] = axes) -> Array:
            return _normalised(x, axes, centered=False) * s

        nodes.add("LayerNormalization", x, scale, bias, want=layer, axis=axis, reduction=count, depth=20)
        nodes.add("LayerNormalization", x, Fixed(scale), want=lambda x, s=scale: layer(x, s.astype(float)), axis=axis,
                  reduction=count, depth=20)  # fmt: skip
        nodes.add("RMSNormalization", x, scale, want=rms, axis=axis, reduction=count, depth=4)
    for shape, groups in (([2, 3, 9, 9], 0), ([2, 8, 5, 6], 4), ([1, 6, 11], 2)):
        x = _numbers(shape, dtype, around=10)
        scale, bias = (_numbers(shape[1:2], dtype, seed=i) for i in (1, 2))

        def grouped(x: Array, s: Array, b: Array, groups: int = groups) -> Array:
            parts = x.reshape(x.shape[0], groups or x.shape[1], -1)
            along = (1, -1, *(1,) * (x.ndim - 2))
            return _normalised(parts, (2,)).reshape(x.shape) * s.reshape(along) + b.reshape(along)

        attributes = {"num_groups": groups} if groups else {}
        nodes.add("GroupNormalization" if groups else "InstanceNormalization", x, scale, bias, want=grouped,
                  reduction=int(np.prod(shape[1:])), depth=8, **attributes)  # fmt: skip
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))


REDUCTIONS: dict[str, Any] = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceL2": lambda x, axes, keepdims: np.sqrt(np.sum(x * x, axes, keepdims=keepdims)),
    "ReduceL1": lambda x, axes, keepdims: np.sum(np.abs(x), axes, keepdims=keepdims),
    "ReduceLogSumExp": lambda x, axes, keepdims: np.log(np.sum(np.exp(x), axes, keepdims=keepdims)),
}
SHAPES: tuple[tuple[list[int], tuple[int, ...]], ...] = (
    ([3, 1000], (1,)),
    ([70, 37], (0,)),
    ([2, 100, 37], (1,)),
    ([40, 100, 3], (1, 2)),
    ([2, 300, 5, 7], (1, 3)),
    ([2, 5, 6], (2,)),
    ([2, 20011], (0, 1)),
)
"""Rows, columns, axes apart from one another, a few steps, and a reduction that many blocks share."""


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_reductions(dtype: Any) -> None:
    nodes = ManyNodes()
    for number, (shape, axes) in enumerate(SHAPES):
        for op in REDUCTIONS if number < 3 and dtype is np.float32 else ("ReduceMean", "ReduceMax"):
            keep = number % 2
            spread, around = (0.02, 1.0) if op == "ReduceProd" else (1.0, 0.5)
            x = _numbers(shape, dtype, spread=spread, around=around)
            count = int(np.prod([shape[a] for a in axes]))
            nodes.add(op, x, Fixed(np.array(axes, np.int64)), keepdims=keep, reduction=count, depth=4,
                      want=lambda x, op=op, axes=axes, keep=keep: REDUCTIONS[op](x, axes, keepdims=bool(keep)))  # fmt: skip
    broken = _numbers([4, 300], dtype)
    broken[1, 299] = np.nan
    for op in ("ReduceMax", "ReduceMin", "ReduceSum"):
        nodes.add(
            op,
            broken,
            Fixed(np.array([1], np.int64)),
            reduction=300,
            want=lambda x, op=op: REDUCTIONS[op](x, 1, keepdims=True),
        )
    for axis, shape in ((1, [3, 500]), (0, [500, 40]), (2, [2, 3, 9])):
        x = np.round(_numbers(shape, dtype, spread=3))  # with equal elements: the first counts
        nodes.add("ArgMax", x, want=lambda x, a=axis: np.argmax(x, a, keepdims=True), axis=axis, outputs=(np.int64,))
        nodes.add("ArgMin", x, want=lambda x, a=axis: np.argmin(x, a, keepdims=True), axis=axis, outputs=(np.int64,))
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))


def test_reductions_of_integers_and_conditions() -> None:
    """Sums of integers are exact in every order, and wrap around."""
    nodes = ManyNodes()
    rng = np.random.default_rng(3)
    axis = Fixed(np.array([1], np.int64))
    for dtype in (np.int32, np.int64, np.uint8, np.int8, np.uint32, np.uint64):
        span = np.iinfo(dtype)
        x = rng.integers(span.min, span.max, (3, 300), dtype, endpoint=True)
        for op in ("ReduceMax", "ReduceMin", *(("ReduceSum",) if span.bits > 8 else ())):
            nodes.add(op, x, axis, want=lambda x, op=op, d=dtype: REDUCTIONS[op](x, 1, keepdims=True).astype(d))
    some = rng.random((5, 300)) < 0.003
    nodes.add("ReduceMax", some, axis, want=lambda x: x.any(1, keepdims=True))
    nodes.add("ReduceMin", ~some, axis, want=lambda x: x.all(1, keepdims=True))
    nodes.check(run_on_simulated_gpu(nodes.model, nodes.feed))

"""Normalisations against float64 numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.run_node import check, node

Array = npt.NDArray[Any]


def rand(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * 2 + 1).astype(np.float32)


def normal(x: Array, axes: tuple[int, ...], eps: float = 1e-5) -> tuple[Array, Array, Array]:
    """Normalised x, its mean and inverse deviation in float64."""
    v = x.astype(np.float64)
    mean = v.mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(v.var(axes, keepdims=True) + eps)
    return (v - mean) * inverse, mean, inverse


def single(want: dict[str, Array]) -> dict[str, Array]:
    return {k: np.asarray(v, np.float32) for k, v in want.items()}


@pytest.mark.parametrize("symbolic", [False, True])
def test_layer_and_rms(symbolic: bool) -> None:
    x, scale, bias = rand(3, 7, 33), rand(33, seed=1), rand(33, seed=2)
    y, mean, inverse = normal(x, (2,))
    rms = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5)
    nodes = [
        node("LayerNormalization", "x s b", "y m i"),
        node("LayerNormalization", "x s", "z"),
        node("RMSNormalization", "x s", "r"),
    ]
    want = {"y": y * scale + bias, "m": mean, "i": inverse, "z": y * scale, "r": rms * scale}
    check(nodes, {"x": x}, {"s": scale, "b": bias}, single(want), symbolic=symbolic)


def test_layer_norm_of_several_axes_and_half() -> None:
    x, scale = rand(2, 3, 5), rand(3, 5, seed=1)
    y, mean, inverse = normal(x, (1, 2), 1e-3)
    nodes = [node("LayerNormalization", "x s", "y m i", axis=1, epsilon=1e-3)]
    check(nodes, {"x": x}, {"s": scale}, single({"y": y * scale, "m": mean, "i": inverse}))
    half = x.astype(np.float16)
    want = normal(half, (2,))[0].astype(np.float16)
    check([node("LayerNormalization", "x s", "y")], {"x": half}, {"s": np.ones(5, np.float16)}, {"y": want})


def test_a_large_mean_does_not_cancel() -> None:
    x = (rand(4, 64) + 3e4).astype(np.float32)
    y = normal(x, (1,))[0]
    check(
        [node("LayerNormalization", "x s", "y")],
        {"x": x},
        {"s": np.ones(64, np.float32)},
        single({"y": y}),
        rtol=1e-2,
        atol=1e-2,
    )


@pytest.mark.parametrize("symbolic", [False, True])
def test_instance_group_batch(symbolic: bool) -> None:
    x, scale, bias = rand(2, 6, 5, 3), rand(6, seed=1), rand(6, seed=2)
    by = lambda v: v[None, :, None, None]  # noqa: E731
    instance = normal(x, (2, 3))[0] * by(scale) + by(bias)
    nodes, want = [node("InstanceNormalization", "x s b", "i")], {"i": instance}
    if not symbolic:
        grouped = normal(x.reshape(2, 3, 2, 5, 3), (2, 3, 4))[0].reshape(x.shape)
        nodes.append(node("GroupNormalization", "x s b", "g", num_groups=3))
        want["g"] = grouped * by(scale) + by(bias)
    mean, var = rand(6, seed=3), np.abs(rand(6, seed=4)) + 0.1
    nodes.append(node("BatchNormalization", "x s b m v", "y"))
    want["y"] = (x - by(mean)) / np.sqrt(by(var.astype(np.float64)) + 1e-5) * by(scale) + by(bias)
    check(
        nodes,
        {"x": x},
        {"s": scale, "b": bias, "m": mean, "v": var.astype(np.float32)},
        single(want),
        symbolic=symbolic,
    )


def test_batch_norm_in_training_mode() -> None:
    x, scale, bias, mean, var = (
        rand(3, 4, 5),
        rand(4, seed=1),
        rand(4, seed=2),
        rand(4, seed=3),
        np.abs(rand(4, seed=4)),
    )
    y = normal(x, (0, 2))[0] * scale[:, None] + bias[:, None]
    want = {"y": y, "m": mean * 0.9 + x.mean((0, 2)) * 0.1, "v": var * 0.9 + x.var((0, 2)) * 0.1}
    nodes = [node("BatchNormalization", "x s b mean var", "y m v", training_mode=1)]
    check(nodes, {"x": x, "mean": mean, "var": var}, {"s": scale, "b": bias}, single(want))


def test_lrn_lp_and_mean_variance() -> None:
    x = rand(2, 7, 3, 5)
    x[0, :, 0, 0] = 0
    v = x.astype(np.float64)
    want = {}
    for size, beta in ((3, 0.75), (4, 0.5)):
        padded = np.pad(v**2, ((0, 0), ((size - 1) // 2, size), (0, 0), (0, 0)))
        total = sum(padded[:, k : k + 7] for k in range(size))
        want[f"l{size}"] = v / (1.0 + 1e-2 / size * total) ** beta
    with np.errstate(all="ignore"):
        want["p1"] = np.nan_to_num(v / np.abs(v).sum(1, keepdims=True))
        want["p2"] = np.nan_to_num(v / np.sqrt((v * v).sum(1, keepdims=True)))
    want["mv"] = (v - v.mean((0, 2, 3), keepdims=True)) / (v.std((0, 2, 3), keepdims=True) + 1e-9)
    nodes = [node("LRN", "x", f"l{s}", size=s, beta=b, alpha=1e-2, bias=1.0) for s, b in ((3, 0.75), (4, 0.5))]
    nodes += [node("LpNormalization", "x", f"p{p}", p=p, axis=1) for p in (1, 2)]
    check([*nodes, node("MeanVarianceNormalization", "x", "mv")], {"x": x}, want=single(want))

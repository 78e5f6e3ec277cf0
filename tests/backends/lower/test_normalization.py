"""Normalisations against float64 numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.errors import InputError, ModelError
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


PER_CHANNEL = [
    ("InstanceNormalization", 2, {}),
    ("BatchNormalization", 4, {}),
    ("GroupNormalization", 2, {"num_groups": 2}),
]


def per_channel(op: str, operands: int, attrs: dict[str, Any], channels: int | str, count: int | str) -> ModelProto:
    """A normalisation whose operands for each channel are inputs, or constants where ``count`` is a number."""
    names = ["scale", "bias", "mean", "var"][:operands]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, channels, 5])]
    constants = []
    for name in names:
        if isinstance(count, int):
            constants.append(numpy_helper.from_array(np.arange(1, count + 1, dtype=np.float32), name))
        else:
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [count]))
    nodes = [helper.make_node(op, ["x", *names], ["y"], name="norm_5", **attrs)]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_empty_tensor_value_info("y")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(("op", "operands", "attrs"), PER_CHANNEL, ids=[c[0] for c in PER_CHANNEL])
def test_operands_have_one_element_for_each_channel(op: str, operands: int, attrs: dict[str, Any]) -> None:
    """Else a kernel would read memory that isn't theirs."""
    x = rand(2, 6, 5)
    with pytest.raises(ModelError, match=r"one scale for each channel[\s\S]*norm_5"):
        graphopt.compile(per_channel(op, operands, attrs, 6, 2), level=0)
    model = graphopt.compile(per_channel(op, operands, attrs, "C", 2), level=0, threads=1)
    with pytest.raises(InputError, match=r"C = 6[\s\S]*norm_5"):
        model.run({"x": x})
    model = graphopt.compile(per_channel(op, operands, attrs, 6, "K"), level=0, threads=1)
    short = {name: np.ones(2, np.float32) for name in ("scale", "bias", "mean", "var")[:operands]}
    with pytest.raises(InputError, match=r"K = 2[\s\S]*norm_5"):
        model.run({"x": x, **short})


def test_groups_of_channels_that_only_the_scale_tells() -> None:
    proto, x = per_channel("GroupNormalization", 2, {"num_groups": 2}, "C", 6), rand(2, 6, 5)
    want = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    for level in (0, 2):
        got = graphopt.compile(proto, level=level, threads=1).run({"x": x})["y"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [0, 4])
def test_channels_that_do_not_divide_into_groups(groups: int) -> None:
    with pytest.raises(ModelError, match=r"groups[\s\S]*norm_5"):
        graphopt.compile(per_channel("GroupNormalization", 2, {"num_groups": groups}, 6, 6), level=0)

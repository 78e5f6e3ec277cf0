"""Row kernels against numpy in float64: lengths around the vector width, extremes, symbolic sizes, every level of instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import cpu_pass_context, tirx, tvm
from graphopt.backends.cpu.kernels import norm_rows, softmax_columns, softmax_rows
from graphopt.backends.specs.normalization import NormSpec
from graphopt.backends.specs.softmax import ColumnSoftmaxSpec, SoftmaxSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.driver.compiling import compile
from tests.support.chosen import templates
from tests.support.run_node import model_with, node

LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 40, 63, 64, 65, 100, 197, 1003)
Array = Any


def build(function: Any, level: str) -> Any:
    target = parse_target(level)
    if not can_run_here(target):
        pytest.skip(f"needs a processor of {level}")
    with cpu_pass_context():
        return tvm.compile(tvm.IRModule({"f": function.with_attr("global_symbol", "f")}), target.tvm_target()).jit()[
            "f"
        ]


def call(function: Any, *inputs: Array) -> Array:
    """The output starts as NaN, so that no element may be left out."""
    out = tvm.runtime.tensor(np.full(inputs[0].shape, np.nan, np.float32))
    function(*(tvm.runtime.tensor(v) for v in inputs), out)
    return out.numpy()


def softmax(x: Array, log: bool = False) -> Array:
    v = x.astype(np.float64)
    with np.errstate(all="ignore"):
        shifted = v - v.max(-1, keepdims=True)
        total = np.exp(shifted).sum(-1, keepdims=True)
        return shifted - np.log(total) if log else np.exp(shifted) / total


def noise(*shape: int, seed: int = 0, spread: float = 3.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


@pytest.fixture(scope="module", params=LEVELS)
def level(request: Any) -> str:
    return str(request.param)


@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_every_length(level: str, log: bool) -> None:
    """One kernel of symbolic rows and length serves all, and static ones agree."""
    lanes = parse_target(level).caps.lanes(4)
    rows, length = tirx.Var("m", "int64"), tirx.Var("k", "int64")
    dynamic = build(softmax_rows.emit(SoftmaxSpec(rows, length, log), lanes, prefetch=True), level)
    for k in LENGTHS:
        x = noise(5, k, seed=k)
        np.testing.assert_allclose(call(dynamic, x), softmax(x, log), 2e-6, 3e-6 if log else 1e-30)
    for k in (1, 10, 16, 40, 100, 197):
        x = noise(5, k, seed=k)
        static = build(softmax_rows.emit(SoftmaxSpec(5, k, log), lanes), level)
        np.testing.assert_allclose(call(static, x), softmax(x, log), 2e-6, 3e-6 if log else 1e-30)


@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_extremes(log: bool) -> None:
    inf, k = np.float32(np.inf), 37
    x = np.zeros((8, k), np.float32)
    x[0] = noise(k) * 1e4
    x[1, ::2] = -inf
    x[2] = -inf
    x[3, 5] = inf
    x[4, 36] = np.nan
    x[5] = 3.4e38
    x[6, :36] = -3.4e38
    x[7] = np.linspace(-110, 0, k)
    got = call(build(softmax_rows.emit(SoftmaxSpec(8, k, log), 8), "x86-64-v3"), x)
    want = softmax(x, log)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want.astype(np.float32), 3e-6, 1e-44)
    assert np.isnan(got[[2, 3, 4]]).all()


def normalised(x: Array, centered: bool = True, epsilon: float = 1e-5) -> Array:
    v = x.astype(np.float64)
    mean = v.mean(-1, keepdims=True) if centered else 0.0
    return (v - mean) / np.sqrt(((v - mean) ** 2).mean(-1, keepdims=True) + epsilon)


@pytest.mark.parametrize(("centered", "bias"), [(True, True), (True, False), (False, False), (False, True)])
def test_norm_of_every_length(level: str, centered: bool, bias: bool) -> None:
    rows, length = tirx.Var("m", "int64"), tirx.Var("k", "int64")
    lanes = parse_target(level).caps.lanes(4)
    spec = NormSpec(rows, 0, length, 0, 1e-5, centered, bias)
    function = build(norm_rows.emit(spec, lanes, prefetch=True), level)
    for k in LENGTHS:
        x, scale, shift = noise(5, k, seed=k) + 1, noise(k, seed=1), noise(k, seed=2)
        want = normalised(x, centered) * scale + (shift if bias else 0)
        got = call(function, x, *((scale, shift) if bias else (scale,)))
        np.testing.assert_allclose(got, want, 1e-5, 1e-5)


@pytest.mark.parametrize(("parts", "inner"), [(1, 49), (3, 7), (4, 64), (2, 1)])
def test_norm_by_channel(parts: int, inner: int) -> None:
    channels, batch = parts * 5, 2
    spec = NormSpec(batch * 5, parts, inner, channels, 1e-3)
    x = noise(batch * 5, parts * inner) + 2
    scale, shift = noise(channels, seed=1), noise(channels, seed=2)
    by_part = normalised(x, epsilon=1e-3).reshape(batch, channels, inner)
    want = (by_part * scale[:, None] + shift[:, None]).reshape(x.shape)
    got = call(build(norm_rows.emit(spec, 8), "x86-64-v3"), x, scale, shift)
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)


def test_norm_of_a_large_mean_and_of_nothing_but_zeros() -> None:
    x = noise(3, 200) + np.float32(1e4)
    x[1] = 0
    one = np.ones(200, np.float32)
    function = build(norm_rows.emit(NormSpec(3, 0, 200, 0, 1e-5, bias=False), 8), "x86-64-v3")
    got = call(function, x, one)
    np.testing.assert_allclose(got, normalised(x), 2e-3, 2e-3)
    np.testing.assert_array_equal(got[1], 0)


def templates_of(nodes: list[Any], feed: dict[str, Array], consts: dict[str, Array], **options: Any) -> list[str]:
    """Templates chosen, once the compiled model was right."""
    model = model_with(nodes, feed, consts, **options)
    return templates(model)


def outputs(nodes: list[Any], feed: dict[str, Array], consts: dict[str, Array], **options: Any) -> dict[str, Array]:
    return compile(model_with(nodes, feed, consts, **options), "x86", threads=2).run(feed)


@pytest.mark.parametrize("symbolic", [False, True])
def test_templates_are_chosen_and_right(symbolic: bool) -> None:
    x = noise(2, 6, 5, 7)
    s4, s35, s6 = noise(7, seed=1), noise(5, 7, seed=2), noise(6, seed=3)
    nodes = [
        node("Softmax", "x", "a", axis=-1),
        node("LogSoftmax", "x", "b", axis=3),
        node("LayerNormalization", "x s", "c", axis=-1),
        node("LayerNormalization", "x t t", "d", axis=2),
        node("RMSNormalization", "x s", "e", axis=-1),
        node("InstanceNormalization", "x u u", "f"),
        node("GroupNormalization", "x u u", "g", num_groups=3),
    ]
    consts = {"s": s4, "t": s35, "u": s6}
    got = outputs(nodes, {"x": x}, consts, symbolic=symbolic, like={"g": x})
    flat = normalised(x.reshape(2, 6, 35)).reshape(x.shape)
    grouped = normalised(x.reshape(2, 3, 70)).reshape(x.shape)
    channel = s6[:, None, None]
    want = {
        "a": softmax(x), "b": softmax(x, True), "c": normalised(x) * s4, "d": flat * s35 + s35,
        "e": normalised(x, False) * s4,
        "f": normalised(x.reshape(2, 6, 35)).reshape(x.shape) * channel + channel, "g": grouped * channel + channel,
    }  # fmt: skip
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, 2e-5, 1e-5, err_msg=name)
    if not symbolic:
        assert templates_of(nodes, {"x": x}, consts, like={"g": x}) == ["softmax-rows"] * 2 + ["norm-rows"] * 5


def test_scale_that_is_an_input() -> None:
    feed = {"x": noise(3, 4, 5), "s": noise(4, 5, seed=1), "b": noise(1, 4, 5, seed=2)}
    nodes = [node("LayerNormalization", "x s b", "y", axis=1)]
    want = normalised(feed["x"].reshape(3, 20)).reshape(3, 4, 5) * feed["s"] + feed["b"]
    np.testing.assert_allclose(outputs(nodes, feed, {})["y"], want, 2e-5, 1e-5)
    assert templates_of(nodes, feed, {}) == ["norm-rows"]


def test_what_rows_do_not_fit_is_left_to_the_generic_schedule() -> None:
    x = noise(2, 3, 4)
    nodes = [
        node("Softmax", "x", "a", axis=1),
        node("LayerNormalization", "x s", "b", axis=-1),
        node("LayerNormalization", "x t", "c m", axis=-1),
    ]
    consts = {"s": noise(1, seed=1), "t": noise(4, seed=2)}
    assert set(templates_of(nodes, {"x": x}, consts)) == {"generic"}
    np.testing.assert_allclose(
        outputs(nodes, {"x": x}, consts)["a"], np.moveaxis(softmax(np.moveaxis(x, 1, 2)), 2, 1), 1e-5
    )


def test_exponentials_are_vectors_in_registers() -> None:
    """No call of the C library, no accumulator on the heap."""
    function = softmax_rows.emit(SoftmaxSpec(64, 1003), 8)
    with cpu_pass_context():
        compiled = tvm.compile(tvm.IRModule({"f": function}), parse_target("x86-64-v3").tvm_target())
    assembly = compiled.mod.inspect_source("asm")
    assert "expf" not in assembly
    assert "TVMBackendAllocWorkspace" not in assembly
    assert "vfmadd" in assembly


@pytest.mark.parametrize("log", [False, True])
def test_softmax_over_other_axes(level: str, log: bool) -> None:
    lanes = parse_target(level).caps.lanes(4)
    for matrices, rows, columns, vectors in ((1, 21, 200, 4), (3, 7, 63, 2), (5, 1, 31, 1), (2, 90, 16, 1)):
        spec = ColumnSoftmaxSpec(matrices, rows, columns, log)
        x = noise(matrices, rows, columns)
        x[0, 0, 3], x[0, :, 5], x[-1, -1, -1] = np.nan, -np.inf, np.inf
        want = np.moveaxis(softmax(np.moveaxis(x, 1, -1), log), -1, 1)
        got = call(build(softmax_columns.emit(spec, lanes, vectors), level), x)
        np.testing.assert_allclose(got, want, 2e-6, 3e-6 if log else 1e-30)


def test_softmax_template_by_axis() -> None:
    x = noise(4, 21, 10, 11)
    nodes = [node("Softmax", "x", "a", axis=1), node("LogSoftmax", "x", "b", axis=0)]
    assert templates_of(nodes, {"x": x}, {}) == ["softmax-columns"] * 2
    got = outputs(nodes, {"x": x}, {})
    np.testing.assert_allclose(got["a"], np.moveaxis(softmax(np.moveaxis(x, 1, -1)), -1, 1), 2e-6, 1e-30)
    np.testing.assert_allclose(got["b"], np.moveaxis(softmax(np.moveaxis(x, 0, -1), True), -1, 0), 2e-6, 3e-6)

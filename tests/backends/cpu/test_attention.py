"""The attention template against float64 numpy, and its forms against ONNX's function body."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.cpu.kernels.attention import AttentionConfig, emit
from graphopt.backends.specs.attention import AttentionSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.driver.compiling import compile
from tests.support.chosen import templates
from tests.support.run_node import model_with, node

LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
Array = Any


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attention(
    q: Array, k: Array, v: Array, mask: Array | None = None, scale: float | None = None, causal: bool = False
) -> Array:
    """[batch, heads, length, size] in float64."""
    ratio = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, ratio, 1), np.repeat(v, ratio, 1)
    scores = q.astype(np.float64) @ k.swapaxes(-1, -2) * (scale or q.shape[-1] ** -0.5)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    with np.errstate(all="ignore"):
        power = np.exp(scores - scores.max(-1, keepdims=True))
        return power / power.sum(-1, keepdims=True) @ v


def run(
    feed: dict[str, Array], symbolic: bool = False, level: int = 2, expect: str = "attention", **attrs: Any
) -> Array:
    names = " ".join(feed)
    model = model_with([node("Attention", names, "y", **attrs)], feed, symbolic=symbolic)
    if level > 0:
        assert expect in templates(model)
    return compile(model, "x86", threads=2, level=level).run(feed)["y"]


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize(
    ("queries", "keys", "size", "v_size"),
    [(1, 1, 1, 1), (5, 7, 3, 2), (40, 40, 15, 15), (33, 50, 64, 40), (1, 70, 16, 16)],
)
def test_lengths(queries: int, keys: int, size: int, v_size: int, level: int) -> None:
    feed = {
        "q": noise(2, 3, queries, size),
        "k": noise(2, 3, keys, size, seed=1),
        "v": noise(2, 3, keys, v_size, seed=2),
    }
    np.testing.assert_allclose(run(feed, level=level), attention(*feed.values()), 1e-5, 2e-6)


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("shape", [(2, 4, 39, 21), (2, 1, 39, 21), (1, 4, 1, 21), (39, 21), (4, 39, 21)], ids=str)
@pytest.mark.parametrize("boolean", [False, True])
def test_masks(shape: tuple[int, ...], boolean: bool, level: int) -> None:
    mask = noise(*shape, seed=3)
    mask = mask > -0.5 if boolean else np.where(mask > 1, np.float32(-np.inf), mask)
    feed = {"q": noise(2, 4, 39, 16), "k": noise(2, 4, 21, 16, seed=1), "v": noise(2, 4, 21, 16, seed=2), "m": mask}
    np.testing.assert_allclose(run(feed, level=level), attention(*feed.values()), 1e-5, 2e-6)


@pytest.mark.parametrize("level", [0, 2])
def test_a_query_that_sees_nothing_gets_zeros_as_in_the_reference(level: int) -> None:
    mask = np.zeros((4, 20), np.float32)
    mask[1] = -np.inf
    mask[2, 1:] = -1e9
    feed = {"q": noise(1, 2, 4, 8), "k": noise(1, 2, 20, 8, seed=1), "v": noise(1, 2, 20, 8, seed=2), "m": mask}
    feed["q"][0, 1, 3, 0] = np.nan
    got = run(feed, level=level)
    np.testing.assert_array_equal(got[:, :, 1], 0)
    np.testing.assert_allclose(got[:, :, 2], feed["v"][:, :, 0], 1e-6)
    assert np.isnan(got[0, 1, 3]).all()
    assert np.isfinite(got[0, 0]).all()


@pytest.mark.parametrize("level", [0, 2])
def test_causal_grouped_packed_and_scaled(level: int) -> None:
    q, k, v = noise(2, 6, 19, 8), noise(2, 2, 23, 8, seed=1), noise(2, 2, 23, 5, seed=2)
    want = attention(q, k, v, scale=0.3, causal=True)
    got = run({"q": q, "k": k, "v": v}, level=level, is_causal=1, scale=0.3)
    np.testing.assert_allclose(got, want, 1e-5, 2e-6)
    flat = {n: t.transpose(0, 2, 1, 3).reshape(2, t.shape[2], -1) for n, t in (("q", q), ("k", k), ("v", v))}
    got = run(flat, level=level, is_causal=1, scale=0.3, q_num_heads=6, kv_num_heads=2)
    np.testing.assert_allclose(got, want.transpose(0, 2, 1, 3).reshape(2, 19, -1), 1e-5, 2e-6)


def test_large_logits_and_lengths_that_threads_share() -> None:
    feed = {"q": noise(1, 1, 150, 32) * 100, "k": noise(1, 1, 90, 32, seed=1) * 100, "v": noise(1, 1, 90, 32, seed=2)}
    got = run(feed)
    assert np.isfinite(got).all()
    scores = feed["q"].astype(np.float64) @ feed["k"].swapaxes(-1, -2)
    clear = np.sort(scores, -1)[..., -1] - np.sort(scores, -1)[..., -2] > 200
    best = feed["v"][0, 0][scores[0, 0].argmax(-1)]
    np.testing.assert_allclose(got[0, 0][clear[0, 0]], best[clear[0, 0]], 1e-5, 1e-5)


def test_symbolic_sizes() -> None:
    shapes = [("b", 2, "l", 8), ("b", 2, "s", 8), ("b", 2, "s", 8), ("l", "s")]
    feed = {n: noise(*(3 if isinstance(d, str) else d for d in s)) for n, s in zip("qkvm", shapes)}
    model = model_with([node("Attention", "q k v m", "y")], feed)
    for value, shape in zip(model.graph.input, shapes):
        for dim, d in zip(value.type.tensor_type.shape.dim, shape):
            if isinstance(d, str):
                dim.dim_param = d
    for dim, d in zip(model.graph.output[0].type.tensor_type.shape.dim, ("b", 2, "l", 8)):
        if isinstance(d, str):
            dim.dim_param = d
    assert templates(model) == ["attention"]
    compiled = compile(model, "x86", threads=2)
    for b, n, s in ((1, 1, 1), (2, 5, 40), (3, 33, 17), (1, 64, 100)):
        sizes = {"b": b, "l": n, "s": s}
        given = {
            n: noise(*(sizes.get(d, d) for d in shape), seed=i) for i, (n, shape) in enumerate(zip("qkvm", shapes))
        }
        np.testing.assert_allclose(compiled.run(given)["y"], attention(*given.values()), 1e-5, 2e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("m_tile", "n_vectors", "v_vectors", "shares"), [(3, 2, 1, 2), (6, 1, 2, 1), (4, 3, 3, 3)])
def test_every_config_is_correct(m_tile: int, n_vectors: int, v_vectors: int, shares: int, level: str) -> None:
    target = parse_target(level)
    if not can_run_here(target):
        pytest.skip(f"needs a processor of {level}")
    spec = AttentionSpec(1, 2, 2, 13, 37, 6, 21, 0.4)
    compute(spec, AttentionConfig(m_tile, n_vectors, v_vectors, target.caps.lanes(4), shares), level)


def compute(spec: AttentionSpec, config: AttentionConfig, level: str) -> None:
    """Compares one kernel with the definition."""
    with cpu_pass_context():
        module = tvm.compile(tvm.IRModule({"f": emit(spec, config, name="f")}), parse_target(level).tvm_target()).jit()
    shapes = [spec.shape(*s) for s in ((spec.heads, spec.queries, spec.size), (spec.kv_heads, spec.keys, spec.size),
                                       (spec.kv_heads, spec.keys, spec.v_size))]  # fmt: skip
    q, k, v = (noise(*(int(d) for d in shape), seed=i) for i, shape in enumerate(shapes))
    shape = (spec.batch, spec.heads, spec.queries, spec.v_size)
    out = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    module["f"](*(tvm.runtime.tensor(t) for t in (q, k, v)), out)
    np.testing.assert_allclose(out.numpy(), attention(q, k, v, scale=spec.scale, causal=spec.causal), 1e-5, 2e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "together", "queries", "keys", "size", "v_size"),
    [(2, 2, 1, 1, 37, 64, 80), (4, 2, 2, 3, 9, 16, 32), (8, 1, 8, 1, 25, 16, 16), (6, 2, 1, 4, 3, 32, 16)],
)
def test_few_queries_read_keys_and_values_where_they_lie(
    heads: int, kv_heads: int, together: int, queries: int, keys: int, size: int, v_size: int, level: str
) -> None:
    target = parse_target(level)
    if not can_run_here(target):
        pytest.skip(f"needs a processor of {level}")
    spec = AttentionSpec(2, heads, kv_heads, queries, keys, size, v_size, 0.4, causal=queries > 1)
    compute(spec, AttentionConfig(1, 1, 1, target.caps.lanes(4), together=together), level)


@pytest.mark.parametrize("packed", [False, True])
def test_a_token_after_any_number_of_others(packed: bool) -> None:
    """One query for each of six heads that share two, an open batch and past, a mask, and a residual connection."""
    b, s = "b", "s"
    shapes: list[tuple[str | int, ...]] = [(b, 6, 1, 16), (b, 2, s, 16), (b, 2, s, 32), (b, 1, 1, s), (b, 6, 1, 32)]
    if packed:
        shapes = [(b, 1, 96), (b, s, 32), (b, s, 64), (b, 1, 1, s), (b, 1, 192)]
    attrs = {"q_num_heads": 6, "kv_num_heads": 2} if packed else {}
    feed = {n: noise(*(3 if isinstance(d, str) else d for d in shape)) for n, shape in zip("qkvmr", shapes)}
    model = model_with([node("Attention", "q k v m", "a", **attrs), node("Add", "a r", "y")], feed)
    del model.graph.output[0]
    for value, shape in zip([*model.graph.input, model.graph.output[0]], [*shapes, shapes[-1]]):
        for dim, d in zip(value.type.tensor_type.shape.dim, shape):
            if isinstance(d, str):
                dim.dim_param = d
    assert templates(model) == ["attention"]
    compiled = compile(model, "x86", threads=2)
    for batch, length in ((1, 1), (2, 7), (1, 8), (3, 129)):
        sizes = {"b": batch, "s": length}
        given = {
            n: noise(*(sizes.get(d, d) for d in shape), seed=i) for i, (n, shape) in enumerate(zip("qkvmr", shapes))
        }
        q, k, v, mask, rest = given.values()
        if packed:
            q, k, v = (t.reshape(batch, t.shape[1], h, -1).swapaxes(1, 2) for t, h in ((q, 6), (k, 2), (v, 2)))
        want = attention(q, k, v, mask)
        want = want.swapaxes(1, 2).reshape(rest.shape) if packed else want
        np.testing.assert_allclose(compiled.run(given)["y"], want + rest, 1e-5, 4e-6)


def test_epilogue() -> None:
    feed = {
        "q": noise(1, 2, 9, 8),
        "k": noise(1, 2, 9, 8, seed=1),
        "v": noise(1, 2, 9, 8, seed=2),
        "r": noise(1, 2, 9, 8, seed=3),
    }
    model = model_with([node("Attention", "q k v", "a"), node("Add", "a r", "y")], feed)
    del model.graph.output[0]
    assert templates(model) == ["attention"]
    want = attention(feed["q"], feed["k"], feed["v"]) + feed["r"]
    np.testing.assert_allclose(compile(model, "x86", threads=2).run(feed)["y"], want, 1e-5, 2e-6)


def test_other_forms_are_expanded() -> None:
    feed = {"q": noise(1, 2, 9, 8), "k": noise(1, 2, 9, 8, seed=1), "v": noise(1, 2, 9, 8, seed=2)}
    got = run(feed, expect="matmul-batched", softcap=2.0)
    scores = 2 * np.tanh(feed["q"].astype(np.float64) @ feed["k"].swapaxes(-1, -2) * 8**-0.5 / 2)
    power = np.exp(scores)
    np.testing.assert_allclose(got, power / power.sum(-1, keepdims=True) @ feed["v"], 1e-5, 2e-6)

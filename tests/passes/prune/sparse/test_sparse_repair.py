"""Least squares on a sparse support, against numpy's row by row, and what it does to layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.ir.graph import Array, Graph
from graphopt.passes.prune.calibration.linear_layer import linear_layers
from graphopt.passes.prune.calibration.statistics import Statistics, gather
from graphopt.passes.prune.sparse.repair import fit, repair
from graphopt.passes.prune.sparse.sparsity import sparsify
from tests.support.onnx_graphs import model_of


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def correlated(rows: int, columns: int, seed: int = 0) -> Array:
    """Rows with strong correlations and a mean."""
    return normal(rows, columns, seed=seed) @ normal(columns, columns, seed=7) + 3 * normal(columns, seed=8)


def feed_runner(graph: Graph, names: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
    return {name: feed[name] for name in names}


def test_fit_is_least_squares_on_the_support() -> None:
    x = correlated(500, 24).astype(np.float64)
    want = normal(10, 24).astype(np.float64)
    have = np.where(normal(10, 24, seed=1) > 0.5, want, 0)
    have[3] = 0
    moments = x.T @ x / len(x)
    got = fit(want, have, moments)
    assert not got[have == 0].any()
    for row, target, start in zip(got, want, have):
        support = np.flatnonzero(start)
        best = np.zeros(24)
        best[support] = np.linalg.lstsq(x[:, support], x @ target, rcond=None)[0]
        errors = [float(np.square(x @ (target - v)).sum()) for v in (best, row, start)]
        assert errors[1] <= 1.02 * errors[0] + 1e-9
        assert errors[1] <= errors[2]


def test_columns_that_were_never_seen_stay() -> None:
    x = correlated(100, 8).astype(np.float64)
    x[:, 2] = 0
    want = normal(3, 8).astype(np.float64)
    have = want.copy()
    have[:, :2] = 0
    got = fit(want, have, x.T @ x / len(x))
    np.testing.assert_array_equal(got[:, 2], want[:, 2])
    np.testing.assert_array_equal(fit(want, have, np.zeros((8, 8))), have)


CASES: list[tuple[str, tuple[int, ...], dict[str, tuple[int, ...]]]] = [
    ("[l] y = Conv(x, w, b)", (8, 16, 6, 6), {"w": (12, 16, 3, 3), "b": (12,)}),
    ("[l] y = Conv(x, w)", (8, 16, 6, 6), {"w": (12, 16, 3, 3)}),
    ("[l] y = Conv<group=2>(x, w, b)", (8, 16, 6, 6), {"w": (12, 8, 3, 3), "b": (12,)}),
    ("[l] y = Gemm<transB=1>(x, w, b)", (300, 16), {"w": (12, 16), "b": (12,)}),
    ("[l] y = Gemm<alpha=0.5>(x, w, b)", (300, 16), {"w": (16, 12), "b": (12,)}),
    ("[l] y = MatMul(x, w)", (300, 16), {"w": (16, 12)}),
    ("[l] y = ConvTranspose(x, w, b)", (8, 16, 6, 6), {"w": (16, 12, 2, 2), "b": (12,)}),
]


@pytest.mark.parametrize(("body", "shape", "consts"), CASES)
def test_results_come_closer(body: str, shape: tuple[int, ...], consts: dict[str, tuple[int, ...]]) -> None:
    from onnx.reference import ReferenceEvaluator

    from graphopt.ir.onnx_io import graph_to_onnx

    flat = correlated(int(np.prod(shape)) // 16, 16)
    x = flat if len(shape) == 2 else np.moveaxis(flat.reshape(shape[0], *shape[2:], 16), -1, 1)
    feed = {"x": np.ascontiguousarray(x, np.float32)}
    graph = import_onnx(
        model_of({"x": f"float[{','.join(map(str, shape))}]"}, body, **{k: normal(*s) for k, s in consts.items()})
    )
    stats = gather(graph, [feed], feed_runner, max_rows=1 << 30)
    bare, _ = sparsify(graph, ratio=0.6)
    repaired, _ = sparsify(graph, ratio=0.6)
    assert repair(graph, repaired, stats).layers == ("l",)

    def run(g: Graph) -> Array:
        return np.asarray(ReferenceEvaluator(graph_to_onnx(g)).run(None, feed)[0], np.float64)

    want = run(graph)
    before, after = (float(np.square(run(g) - want).mean()) for g in (bare, repaired))
    assert after < 0.8 * before
    noise = run(repaired) - want
    if "b)" in body and "Transpose" not in body and "alpha" not in body:  # a free bias leaves no mean
        assert np.abs(noise.mean(tuple(a for a in range(noise.ndim) if a != 1))).max() < 0.01 * noise.std()
    old, new = (linear_layers(g)["l"].w.data for g in (bare, repaired))
    assert old is not None
    assert new is not None
    np.testing.assert_array_equal(old == 0, new == 0)
    assert [v.name for v in repaired.constants()] == [v.name for v in graph.constants()]


def test_a_bias_that_others_read_is_split() -> None:
    body = "[l] h = MatMul(x, v)\n[one] a = Gemm(h, w, b)\n[two] y = Add(a, b)"
    consts: dict[str, Any] = {"v": np.eye(16, dtype=np.float32), "w": normal(16, 12), "b": normal(12)}
    graph = import_onnx(model_of({"x": "float[300,16]"}, body, **consts))
    x = correlated(300, 16)
    stats = gather(graph, [{"x": x, "h": x}], feed_runner, max_rows=1 << 30)
    sparse, _ = sparsify(graph, ratio=0.6, exclude=["l"])
    assert repair(graph, sparse, stats).layers == ("one",)
    add = next(n for n in sparse.nodes if n.op == "Add")
    assert add.inputs[1] is not None
    np.testing.assert_array_equal(add.inputs[1].data, consts["b"])


def test_layers_without_products_are_left() -> None:
    graph = import_onnx(model_of({"x": "float[300,16]"}, "[l] y = MatMul(x, w)", w=normal(16, 12)))
    sparse, _ = sparsify(graph, ratio=0.5)
    before = linear_layers(sparse)["l"].w.data
    found = repair(graph, sparse, Statistics(graph))
    assert (found.layers, found.left) == ((), ("l",))
    assert linear_layers(sparse)["l"].w.data is before

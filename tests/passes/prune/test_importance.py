"""Criteria against numpy written from their definitions, on data small enough to compute everything directly."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from graphopt.passes.prune.calibration.statistics import Statistics, gather
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups, find_groups
from graphopt.passes.prune.importance import CRITERIA, criterion
from graphopt.passes.prune.importance.reconstruction import DAMPING
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort

BN = {"s": rand(6), "t": rand(6, seed=1), "m": rand(6, seed=2), "v": rand(6, seed=3, positive=True)}


def chain(**other: Any) -> Graph:
    """Two convolutions with a normalisation between them: six channels that can go."""
    body = "a = Conv<pads=[1,1,1,1]>(x, w, b)\nn = BatchNormalization(a, s, t, m, v)\nr = Relu(n)\ny = Conv(r, u, c)"
    weights = {"w": rand(6, 3, 3, 3), "b": rand(6), "u": rand(5, 6, 3, 3), "c": rand(5), **BN}
    return graph_of({"x": "float[2,3,7,7]"}, body, **{**weights, **other})


def residual() -> Graph:
    """Two producers of the same eight channels, two layers that read them."""
    body = "a = Conv(x, p)\nq = Conv(x, o)\nz = Add(a, q)\nr = Relu(z)\nd = Conv(r, u)\ne = Conv(r, k)\ny = Concat<axis=1>(d, e)"
    weights = {"p": rand(8, 3, 1, 1), "o": rand(8, 3, 1, 1, seed=7), "u": rand(4, 8, 1, 1), "k": 9 * rand(5, 8, 1, 1)}
    return graph_of({"x": "float[2,3,6,6]"}, body, **weights)


def grouped() -> Graph:
    """Two groups of four channels in and three out."""
    body = "a = Conv(x, w)\nr = Relu(a)\nd = Conv<group=2>(r, k)\ny = Conv(d, u)"
    return graph_of({"x": "float[2,3,5,5]"}, body, w=rand(8, 3, 1, 1), k=rand(6, 4, 3, 3), u=rand(2, 6, 1, 1))


def the_group(groups: PruneGroups) -> ChannelGroup:
    (group,) = groups.groups
    return group


def run_inner(graph: Graph, names: Sequence[str], feed: Any) -> dict[str, Any]:
    """Inner values by ONNX Runtime."""
    from graphopt.driver.optimizing import export_onnx
    from graphopt.ir.outputs import with_outputs

    made = [n for n in names if n not in feed]
    return {**feed, **dict(zip(made, run_ort(export_onnx(with_outputs(graph, made)), feed)))} if made else dict(feed)


def feeds_of(graph: Graph, count: int = 3) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    shapes = {v.name: tuple(int(str(d)) for d in v.shape) for v in graph.inputs}
    return [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(count)]


def seen(graph: Graph, **limits: Any) -> Statistics:
    return gather(graph, feeds_of(graph), run_inner, **limits)


def inner(graph: Graph, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All calibration samples of an inner value, [N, C, ...]."""
    return np.concatenate([run_inner(graph, [name], f)[name] for f in feeds_of(graph)]).astype(np.float64)


def scores_of(graph: Graph, name: str, stats: Statistics | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
    groups = find_groups(graph)
    found = CRITERIA[name].score(groups, stats)
    assert all(
        s.dtype == np.float64 and s.shape == (groups.groups[i].size,) and (s >= 0).all() for i, s in found.items()
    )
    return found[the_group(groups).index]


# -- by weights -------------------------------------------------------------------------------------------------------
def test_norms_sum_over_all_producers() -> None:
    w = rand(8, 3, 1, 1).astype(np.float64).reshape(8, -1)
    v = rand(8, 3, 1, 1, seed=7).astype(np.float64).reshape(8, -1)
    np.testing.assert_allclose(scores_of(residual(), "l1"), np.abs(w).sum(1) + np.abs(v).sum(1))
    np.testing.assert_allclose(scores_of(residual(), "l2"), np.sqrt((w**2).sum(1) + (v**2).sum(1)))


@pytest.mark.parametrize("body", ["y = ConvTranspose(r, u)", "f = Flatten(r)\ny = Gemm(f, g)"])
def test_layouts_of_weights(body: str) -> None:
    """A transposed convolution's output channels are its second axis; the reader's layout doesn't matter."""
    graph = graph_of(
        {"x": "float[1,3,4,4]"}, f"a = ConvTranspose(x, w)\nr = Relu(a)\n{body}",
        w=rand(3, 6, 2, 2), u=rand(6, 2, 1, 1), g=rand(150, 4),
    )  # fmt: skip
    want = np.sqrt(np.square(rand(3, 6, 2, 2).astype(np.float64)).sum((0, 2, 3)))
    np.testing.assert_allclose(scores_of(graph, "l2"), want)


def test_depthwise_weights_count_as_producers() -> None:
    graph = graph_of(
        {"x": "float[1,3,5,5]"}, "a = Conv(x, w)\nd = Conv<group=6>(a, k)\ny = Conv(d, u)",
        w=rand(6, 3, 1, 1), k=rand(6, 1, 3, 3), u=rand(2, 6, 1, 1),
    )  # fmt: skip
    want = np.abs(rand(6, 3, 1, 1).astype(np.float64)).sum((1, 2, 3)) + np.abs(rand(6, 1, 3, 3).astype(np.float64)).sum(
        (1, 2, 3)
    )
    np.testing.assert_allclose(scores_of(graph, "l1"), want)


def test_channels_of_several_rows_sum_over_all_of_them() -> None:
    """A position goes from every group of a grouped convolution at once."""
    graph = grouped()
    groups = find_groups(graph)
    found = CRITERIA["l1"].score(groups)
    rows = np.abs(rand(6, 4, 3, 3).astype(np.float64)).sum((1, 2, 3)).reshape(2, 3)
    scores = [found[g.index] for g in groups.groups if g.size == 3]
    assert any(s == pytest.approx(rows.sum(0)) for s in scores), scores


def test_what_no_layer_produces_is_judged_by_its_readers() -> None:
    graph = graph_of({"x": "float[1,3,4,4]"}, "e = Expand(k, n)\nr = Mul(e, e)\ny = Conv(r, u)", k=rand(1, 6, 1, 1),
                     n=np.asarray([1, 6, 4, 4]), u=rand(2, 6, 1, 1))  # fmt: skip
    want = np.abs(rand(2, 6, 1, 1).astype(np.float64)).sum((0, 2, 3))
    np.testing.assert_allclose(scores_of(graph, "l1"), want)


def test_batch_norm_scale() -> None:
    np.testing.assert_allclose(scores_of(chain(), "bn-scale"), np.abs(BN["s"].astype(np.float64)))


def test_batch_norm_scale_falls_back_where_there_is_none_and_refuses_where_all_are_folded() -> None:
    body = "a = Conv(x, w)\nn = BatchNormalization(a, s, t, m, v)\nr = Conv(n, u)\ny = Conv(r, k)"
    graph = graph_of({"x": "float[1,3,4,4]"}, body, w=rand(6, 3, 1, 1), u=rand(5, 6, 1, 1), k=rand(2, 5, 1, 1), **BN)
    groups = find_groups(graph)
    first, second = groups.groups
    assert CRITERIA["bn-scale"].fallbacks(groups) == (second.name,)
    found = CRITERIA["bn-scale"].score(groups)
    np.testing.assert_allclose(found[first.index], np.abs(BN["s"].astype(np.float64)))
    np.testing.assert_allclose(found[second.index], CRITERIA["l2"].score(groups)[second.index])
    with pytest.raises(UserError, match="BatchNormalization") as caught:
        CRITERIA["bn-scale"].score(find_groups(residual()))
    assert caught.value.code == "criterion-without-ground"


def test_geometric_median() -> None:
    w = np.concatenate([rand(8, 3, 1, 1).reshape(8, -1), rand(8, 3, 1, 1, seed=7).reshape(8, -1)], 1).astype(np.float64)
    want = [sum(np.linalg.norm(w[i] - w[j]) for j in range(8)) for i in range(8)]
    np.testing.assert_allclose(scores_of(residual(), "fpgm"), want, rtol=1e-9)


def test_geometric_median_takes_what_lies_in_the_middle_first() -> None:
    w = rand(6, 3, 3, 3) + 5
    w[2] = w.mean(0)
    assert scores_of(chain(w=w), "fpgm").argmin() == 2
    assert scores_of(chain(w=w), "l2").argmin() != 2


def test_lamp() -> None:
    w = rand(6, 3, 3, 3).astype(np.float64)
    w[4] = 0
    squares = np.square(w).sum((1, 2, 3))
    want = [0 if s == 0 else s / sum(t for t in squares if t >= s) for s in squares]
    found = scores_of(chain(w=w.astype(np.float32)), "lamp")
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert found.max() == 1
    assert found[4] == 0


def test_random_is_seeded_by_group() -> None:
    groups = find_groups(residual())
    first, again, other = (CRITERIA["random"].score(groups, None, seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).all()


# -- by data ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["activation", "taylor", "reconstruction"])
def test_data_is_asked_for(name: str) -> None:
    with pytest.raises(UserError, match="calibration data") as caught:
        CRITERIA[name].score(find_groups(chain()))
    assert caught.value.code == "criterion-needs-data"
    assert "--calib" in str(caught.value.hint)


def test_activation() -> None:
    """The reader sees patches: inner pixels weigh more than those at the border."""
    graph = residual()
    r = inner(graph, "r")
    strength = np.sqrt((r**2).mean((0, 2, 3)))
    np.testing.assert_allclose(scores_of(graph, "activation", seen(graph)), strength / strength.mean(), rtol=1e-4)


def patches(x: np.ndarray[Any, Any], kernel: int) -> np.ndarray[Any, Any]:
    """[N, C, H, W] -> [C, taps, rows] of an unpadded convolution of stride 1."""
    _, c, h, w = x.shape
    cut = [
        x[:, :, i : h - kernel + 1 + i, j : w - kernel + 1 + j] for i, j in itertools.product(range(kernel), repeat=2)
    ]
    return np.stack(cut, 2).transpose(1, 2, 0, 3, 4).reshape(c, kernel * kernel, -1)


def readers(graph: Graph, layers: Iterable[tuple[str, str]]) -> list[tuple[Any, Any]]:
    """(W [M, C, taps], rows [C, taps, n]) of unpadded convolutions, by names of weight and input."""
    constants = {v.name: v.data for v in graph.constants()}
    found = []
    for weight, x in layers:
        w = np.asarray(constants[weight], np.float64)
        found.append((w.reshape(*w.shape[:2], -1), patches(inner(graph, x), w.shape[2])))
    return found


@pytest.mark.parametrize(("make", "layers"), [(chain, [("u", "r")]), (residual, [("u", "r"), ("k", "r")])])
def test_taylor_is_the_change_when_a_channel_is_zeroed(make: Any, layers: Any) -> None:
    graph = make()
    want = 0
    for w, rows in readers(graph, layers):
        results = np.einsum("mct,ctn->mn", w, rows)
        change = []
        for c in range(w.shape[1]):
            zeroed = rows.copy()
            zeroed[c] = 0
            change.append(np.square(results - np.einsum("mct,ctn->mn", w, zeroed)).sum())
        want = want + np.asarray(change) / np.square(results).sum()
    np.testing.assert_allclose(scores_of(graph, "taylor", seen(graph)), want, rtol=1e-4)


def test_taylor_without_products_takes_rows_as_uncorrelated() -> None:
    graph = chain()
    ((w, rows),) = readers(graph, [("u", "r")])
    parts = (np.square(w).sum(0) * np.square(rows).mean(2)).sum(1)
    found = scores_of(graph, "taylor", seen(graph, max_columns=1))
    np.testing.assert_allclose(found, parts / parts.sum(), rtol=1e-4)


def test_taylor_of_grouped_readers() -> None:
    """Each group of a layer has its own weights and moments. The second layer reads the channels in another order, so one
    that is position 0 of its first group is position 1 of its second."""
    body = (
        "a = Conv(x, w)\nr = Relu(a)\nd = Conv<group=2>(r, k)\ni = Gather<axis=1>(r, order)\ne = Conv<group=2>(i, l)\n"
        "z = Concat<axis=1>(d, e)\ny = Conv(z, u)"
    )
    weights = {"k": rand(6, 4, 3, 3), "l": rand(6, 4, 3, 3, seed=5)}
    order = np.asarray([0, 1, 2, 3, 5, 4, 7, 6])
    graph = graph_of({"x": "float[2,3,5,5]"}, body, w=rand(8, 3, 1, 1), order=order, u=rand(2, 12, 1, 1), **weights)
    groups = find_groups(graph)
    found = CRITERIA["taylor"].score(groups, seen(graph))
    r = inner(graph, "r")

    def change(x: Any, w: Any) -> float:
        return float(sum(np.square(conv(x[:, 4 * g : 4 * g + 4], w[3 * g : 3 * g + 3])).sum() for g in range(2)))

    (group,) = [g for g in groups.groups if any(m.value.name == "r" and m.axis == 1 for m in g.members)]
    at = next(m.positions for m in group.members if m.value.name == "r" and m.axis == 1)
    assert at.shape == (4, 2)
    for channel, positions in enumerate(at):
        masked = np.zeros_like(r)
        masked[:, positions] = r[:, positions]
        want = 0.0
        for index, w in ((np.arange(8), weights["k"]), (order, weights["l"])):
            want += change(masked[:, index], w.astype(np.float64)) / change(r[:, index], w.astype(np.float64))
        np.testing.assert_allclose(found[group.index][channel], want, rtol=1e-4)


def conv(x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.einsum("mct,ctn->mn", w.reshape(*w.shape[:2], -1), patches(x, w.shape[2]))


def test_results_that_vanish_too_do_not_count() -> None:
    """z = r + K r: without channel c result c goes as well, so only its effect on the other results matters."""
    body = "a = Conv(x, w)\nr = Relu(a)\nd = Conv(r, k)\nz = Add(r, d)\ny = Conv(z, u)"
    nothing = np.zeros((2, 6, 1, 1), np.float32)  # so that the last layer has no say
    graph = graph_of({"x": "float[2,3,5,5]"}, body, w=rand(6, 3, 1, 1), k=rand(6, 6, 1, 1), u=nothing)
    r, k = inner(graph, "r"), rand(6, 6, 1, 1).astype(np.float64)[:, :, 0, 0]
    effect = [np.square(np.delete(k[:, c], c)).sum() * np.square(r[:, c]).sum() for c in range(6)]
    want = np.asarray(effect) / np.square(conv(r, k[:, :, None, None])).sum()
    np.testing.assert_allclose(scores_of(graph, "taylor", seen(graph)), want, rtol=1e-4)


def left_over(w: Any, rows: Any, keep: Sequence[int]) -> float:
    """Mean square error of the best fit of the results by some channels and a constant, relative to their variance."""
    results = np.einsum("mct,ctn->mn", w, rows)
    results = results - results.mean(1, keepdims=True)
    flat = rows.reshape(-1, rows.shape[2])
    flat = flat - flat.mean(1, keepdims=True)
    damping = DAMPING * np.trace(flat @ flat.T) / len(flat)
    index = (np.asarray(keep, int)[:, None] * rows.shape[1] + np.arange(rows.shape[1])).ravel()
    old = w.reshape(len(w), -1)
    g = flat @ flat.T + damping * np.eye(len(flat))  # what is kept pays for moving away from the old weights, too
    new = np.zeros_like(old)
    if len(index):
        new[:, index] = np.linalg.solve(g[np.ix_(index, index)], g[index] @ old.T).T
    delta = new - old
    return float(np.vdot(delta @ g, delta) / np.square(results).sum())


@pytest.mark.parametrize(("make", "layers"), [(chain, [("u", "r")]), (residual, [("u", "r"), ("k", "r")])])
def test_reconstruction_is_what_least_squares_leaves(make: Any, layers: Any) -> None:
    """At every threshold the score is the error of the refitted layers without the channels below it; and each channel
    in turn is the one that leaves least."""
    graph = make()
    found = scores_of(graph, "reconstruction", seen(graph))
    problems = readers(graph, layers)
    order = np.argsort(found, kind="stable").tolist()

    def left(gone: Sequence[int]) -> float:
        return sum(left_over(w, rows, [c for c in order if c not in gone]) for w, rows in problems)

    for n, channel in enumerate(order):
        np.testing.assert_allclose(found[channel], left(order[: n + 1]), rtol=2e-3)
        rivals = [left([*order[:n], c]) for c in order[n:]]
        assert rivals[0] <= min(rivals) * (1 + 1e-3)


def test_twins_do_not_go_together() -> None:
    """Two channels that say the same: the first costs nothing, the second much. Scored by themselves both look worthless."""
    w, u = rand(6, 3, 3, 3), rand(5, 6, 3, 3)
    w[3], u[:, 3] = w[1], 3 * u[:, 1]
    same = {k: np.concatenate([v[:3], v[1:2], v[4:]]) for k, v in BN.items()}
    b = rand(6)
    b[3] = b[1]
    graph = chain(w=w, u=u, b=b, **same)
    found = scores_of(graph, "reconstruction", seen(graph))
    assert min(found[1], found[3]) < 1e-3
    assert max(found[1], found[3]) > 0.02
    taylor = scores_of(graph, "taylor", seen(graph))
    assert min(taylor[1], taylor[3]) > 1e-3


def test_many_channels_go_in_batches_of_which_none_surprises() -> None:
    """130 channels, of which the last 65 repeat the first: batches are cut down where twins would go together."""
    w = rand(65, 40, 1, 1)
    u = np.concatenate([rand(7, 65, 1, 1), rand(7, 65, 1, 1, seed=3)], 1)
    body = "a = Conv(x, w)\nr = Relu(a)\ny = Conv(r, u)"
    graph = graph_of({"x": "float[4,40,9,9]"}, body, w=np.concatenate([w, w]), u=u)
    found = scores_of(graph, "reconstruction", seen(graph))
    gone = set(np.argsort(found, kind="stable")[:60].tolist())
    assert not any(c in gone and c + 65 in gone for c in range(65))
    assert max(found[list(gone)]) < 1e-2


def test_channels_that_no_layer_reads_are_judged_by_what_is_produced() -> None:
    """Queries and keys meet in a product of two tensors."""
    body = "q = MatMul(x, a)\nk = MatMul(x, b)\nt = Transpose<perm=[0,2,1]>(k)\ny = MatMul(q, t)"
    graph = graph_of({"x": "float[2,9,4]"}, body, a=rand(4, 6), b=rand(4, 6, seed=9))
    want = 0
    for name in "qk":
        energy = np.square(inner(graph, name)).sum((0, 1))
        want = want + energy / energy.sum()
    stats = seen(graph)
    for name in ("taylor", "reconstruction"):
        np.testing.assert_allclose(scores_of(graph, name, stats), want, rtol=1e-4)
    np.testing.assert_allclose(scores_of(graph, "activation", stats), np.sqrt(want), rtol=1e-4)


def test_layers_that_calibration_has_not_seen_leave_the_norm_of_weights() -> None:
    graph = chain()
    stats = gather(graph, feeds_of(graph), run_inner, layers=[])
    for name in ("activation", "taylor", "reconstruction"):
        np.testing.assert_allclose(scores_of(graph, name, stats), scores_of(graph, "l2"))


def test_unknown_criterion() -> None:
    with pytest.raises(UserError, match="tailor") as caught:
        criterion("tailor")
    assert "taylor" in str(caught.value.hint)

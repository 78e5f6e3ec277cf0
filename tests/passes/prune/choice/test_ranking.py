"""From scores to plans: ratios, rankings, rounding, names, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import UserError
from graphopt.passes.prune.choice.ranking import queue, select, step, structure
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.plan import PrunePlan
from tests.support.onnx_graphs import graph_of, rand

SIZES = {"one": 8, "two": 12, "three": 20}


def chain(sizes: dict[str, int] = SIZES) -> PruneGroups:
    """Convolutions in a row, named; the last one's channels leave the graph."""
    lines, weights, last, channels = [], {}, "x", 3
    for name, size in sizes.items():
        lines += [f"[{name}] c_{name} = Conv({last}, w_{name})", f"r_{name} = Relu(c_{name})"]
        weights[f"w_{name}"] = rand(size, channels, 1, 1)
        last, channels = f"r_{name}", size
    lines.append(f"[last] y = Conv({last}, w_last)")
    weights["w_last"] = rand(2, channels, 1, 1)
    return find_groups(graph_of({"x": "float[1,3,4,4]"}, "\n".join(lines), **weights))


def ramps(groups: PruneGroups, scale: Any = lambda g: 1.0) -> dict[int, Any]:
    """Scores 1, 2, ... in a shuffled but known order."""
    return {
        g.index: scale(g) * (np.random.default_rng(g.index).permutation(g.size) + 1).astype(np.float64)
        for g in groups.groups
    }


def kept(plan: PrunePlan) -> dict[str, int]:
    return {g.name: plan.kept(g) for g in plan.groups.groups}


@pytest.mark.parametrize(
    ("ratio", "want"), [(0.5, (4, 6, 10)), (0.3, (6, 8, 14)), (0.01, (8, 12, 20)), (0.99, (1, 1, 1))]
)
def test_local_takes_the_same_part_of_each_group(ratio: float, want: tuple[int, ...]) -> None:
    groups = chain()
    scores = ramps(groups)
    plan = select(groups, scores, ratio=ratio)
    assert tuple(kept(plan).values()) == want
    for index, mask in plan.removed.items():
        assert scores[index][mask].max() < scores[index][~mask].min()


def test_global_is_one_threshold_after_each_group_is_divided_by_its_mean() -> None:
    groups = chain()
    scores = ramps(groups, lambda g: 10.0**g.index)  # scales differ, shapes don't
    plan = select(groups, scores, ratio=0.4, ranking="global")
    assert sum(m.sum() for m in plan.removed.values()) == 16
    relative = {i: s / s.mean() for i, s in scores.items()}
    gone = np.concatenate([relative[i][m] for i, m in plan.removed.items()])
    stay = np.concatenate(
        [relative[g.index][~plan.removed.get(g.index, np.zeros(g.size, bool))] for g in groups.groups]
    )
    assert gone.max() <= stay.min()
    as_they_are = select(groups, scores, ratio=0.4, ranking="global", normalise=False)
    assert kept(as_they_are) == {"one": 1, "two": 3, "three": 20}


def test_isomorphic_ranks_groups_of_one_structure_together() -> None:
    body = (
        "[a] p = Conv(x, wa)\nq = Relu(p)\n[b] r = Conv(q, wb)\ns = Relu(r)\n[c] t = Conv(s, wc)\n"
        "[d] u = Conv<group=10>(t, wd)\n[e] y = Conv(u, we)"
    )
    graph = graph_of(
        {"x": "float[1,3,4,4]"}, body, wa=rand(10, 3, 1, 1), wb=rand(10, 10, 1, 1), wc=rand(10, 10, 1, 1),
        wd=rand(10, 1, 1, 1), we=rand(2, 10, 1, 1),
    )  # fmt: skip
    groups = find_groups(graph)
    a, b, c = groups.groups
    assert structure(a) == structure(b) != structure(c)
    scores = {a.index: np.arange(10.0) + 1, b.index: np.arange(10.0) + 101, c.index: np.arange(10.0) + 1001}
    plan = select(groups, scores, ratio=0.3, ranking="isomorphic", normalise=False)
    assert kept(plan) == {"a": 4, "b": 10, "c": 7}
    everywhere = select(groups, scores, ratio=0.3, ranking="global", normalise=False)
    assert kept(everywhere) == {"a": 1, "b": 10, "c": 10}


@pytest.mark.parametrize(
    ("ratio", "multiple", "want"),
    [
        (0.5, 4, (4, 6, 8)),  # 4, 6 and 10 wanted; groups of fewer than four multiples are rounded to a half
        (0.5, 8, (4, 4, 8)),  # of two equally near multiples either will do
        (0.2, 8, (8, 8, 16)),
        (0.05, 8, (8, 12, 20)),  # nothing at all is nearer than 8 of 12
        (0.9, 8, (4, 4, 4)),
        (0.7, 8, (4, 4, 8)),
        (0.5, 16, (4, 8, 8)),  # 8 and 12 are fewer than two halves
        (0.9, 64, (1, 1, 2)),
        (0.5, 6, (3, 6, 9)),
        (0.9, 6, (3, 3, 3)),
    ],
)
def test_what_stays_is_a_multiple(ratio: float, multiple: int, want: tuple[int, ...]) -> None:
    groups = chain()
    got = tuple(kept(select(groups, ramps(groups), ratio=ratio, multiple=multiple)).values())
    for size, n, nearest in zip(SIZES.values(), got, want):
        unit = multiple if size >= 4 * multiple else multiple // 2
        halves = {unit >> shift for shift in range(7)} if size < 2 * unit else set()
        assert n == size or n % unit == 0 < n or n in halves
        wanted = size * (1 - ratio)
        assert abs(n - wanted) == abs(nearest - wanted), (got, want)


def test_global_ranking_leaves_multiples_too() -> None:
    groups = chain({"one": 64, "two": 40, "three": 100})
    for seed in range(5):
        scores = {g.index: np.random.default_rng((seed, g.index)).random(g.size) for g in groups.groups}
        plan = select(groups, scores, ratio=0.5, ranking="global", multiple=16)
        for group, unit in zip(groups.groups, (16, 8, 16)):
            assert plan.kept(group) == group.size or plan.kept(group) % unit == 0 < plan.kept(group)
        assert abs(sum(kept(plan).values()) - 102) <= 16


def test_blocks_are_ranked_by_their_means() -> None:
    (group,) = chain({"one": 19}).groups
    scores = np.arange(19.0)[::-1].copy()
    q = queue(group, scores, 4, normalise=False)
    assert q.order.tolist() == list(range(18, -1, -1))
    assert q.ends == (3, 7, 11, 15)
    assert q.costs == (1.0, 4.5, 8.5, 12.5)


def test_scores_that_are_no_numbers_stay() -> None:
    (group,) = chain({"one": 6}).groups
    scores = np.asarray([np.nan, 3, 2, 1, np.inf, 4])
    assert queue(group, scores).order.tolist()[:4] == [3, 2, 1, 5]


def test_channels_of_adjacent_rows_need_less_rounding() -> None:
    """Attention heads: 6 heads of 8 positions. A head takes 8 adjacent rows, a position one of each head."""
    body = (
        "p = MatMul(x, a)\nq = Reshape(p, s)\nr = Transpose<perm=[0,2,1,3]>(q)\nt = MatMul(m, r)\n"
        "u = Transpose<perm=[0,2,1,3]>(t)\nv = Reshape(u, w)\ny = MatMul(v, o)"
    )
    graph = graph_of(
        {"x": "float[1,5,16]", "m": "float[1,1,5,5]"}, body, a=rand(16, 48), s=np.asarray([1, 5, 6, 8]),
        w=np.asarray([1, 5, 48]), o=rand(48, 4),
    )  # fmt: skip
    found = {g.size: g for g in find_groups(graph).groups}
    assert set(found) == {6, 8}
    assert [step(found[6], m) for m in (4, 8, 16)] == [1, 1, 2]
    assert [step(found[8], m) for m in (4, 8, 16)] == [4, 8, 16]


def test_ratios_and_exclusions_by_name_and_pattern() -> None:
    groups = chain()
    scores = ramps(groups)
    assert kept(select(groups, scores, ratio=0.5, exclude=["two"])) == {"one": 4, "two": 12, "three": 10}
    assert kept(select(groups, scores, ratio=0.5, exclude=["t*"])) == {"one": 4, "two": 12, "three": 20}
    plan = select(groups, scores, ratio=0.5, ratios={"t*": 0.25, "three": 0.1, "one": 0})
    assert kept(plan) == {"one": 8, "two": 9, "three": 18}
    for ranking in ("global", "isomorphic"):
        plan = select(groups, scores, ratio=0.5, ranking=ranking, ratios={"three": 0.1})
        assert plan.kept(groups.groups[2]) == 18
        assert kept(plan)["one"] + kept(plan)["two"] == 10


def test_a_shared_group_goes_by_the_name_of_each_producer() -> None:
    graph = graph_of(
        {"x": "float[1,3,4,4]"}, "[a] p = Conv(x, w)\n[b] q = Conv(x, v)\ns = Add(p, q)\n[c] r = Conv(s, u)\n[d] y = Conv(r, u2)",
        w=rand(8, 3, 1, 1), v=rand(8, 3, 1, 1), u=rand(6, 8, 1, 1), u2=rand(2, 6, 1, 1),
    )  # fmt: skip
    groups = find_groups(graph)
    plan = select(groups, ramps(groups), ratio=0.5, exclude=["b"])
    assert kept(plan) == {"a": 8, "c": 3}


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"ratio": 0.0}, "bad-ratio", "0"),
        ({"ratio": 1.0}, "bad-ratio", "1"),
        ({"ratio": -0.5}, "bad-ratio", "-0.5"),
        ({"ratio": float("nan")}, "bad-ratio", "nan"),
        ({"ratio": 0.5, "ratios": {"one": 1.5}}, "bad-ratio", "'one'"),
        ({"ratio": 0.5, "ranking": "globl"}, "unknown-ranking", "did you mean 'global'"),
        ({"ratio": 0.5, "multiple": 0}, "bad-multiple", "multiples of 0"),
        ({"ratio": 0.5, "exclude": ["thre"]}, "unknown-layer", "did you mean 'three'"),
        ({"ratio": 0.5, "ratios": {"foo*": 0.2}}, "unknown-layer", "'foo*'"),
        ({"ratio": 0.5, "exclude": ["*"]}, "nothing-to-prune", "excluded"),
    ],
)
def test_refusals(options: Any, code: str, text: str) -> None:
    groups = chain()
    with pytest.raises(UserError) as caught:
        select(groups, ramps(groups), **options)
    assert caught.value.code == code
    assert text in str(caught.value)
    assert caught.value.hint


def test_a_frozen_layer_is_a_known_name() -> None:
    groups = chain()
    assert kept(select(groups, ramps(groups), ratio=0.5, exclude=["last"])) == {"one": 4, "two": 6, "three": 10}


def test_nothing_to_prune_says_why() -> None:
    groups = find_groups(graph_of({"x": "float[1,3,4,4]"}, "y = Conv(x, w)", w=rand(5, 3, 1, 1)))
    with pytest.raises(UserError, match="no channel can be removed") as caught:
        select(groups, {}, ratio=0.5)
    assert any("output 'y'" in note and note.startswith("5 channels stay") for note in caught.value.notes)

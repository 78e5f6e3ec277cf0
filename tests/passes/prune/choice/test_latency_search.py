"""The greedy descent: what goes first, how far it goes, and that it keeps more than uniform removal at the same time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphopt.errors import UserError
from graphopt.passes.prune.choice.budget import Budget, fit_budget
from graphopt.passes.prune.choice.latency_search import Descent, Ladder, kept_importance
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.plan import Mask, PrunePlan
from tests.support.onnx_graphs import graph_of, rand

Time = Callable[[dict[int, int]], float]


class CountingClock:
    """Time as a function of how many channels each group keeps."""

    def __init__(self, groups: PruneGroups, time: Time) -> None:
        self._sizes = {g.index: g.size for g in groups.groups}
        self._time = time
        self._kept = dict(self._sizes)

    @property
    def seconds(self) -> float:
        return self._time(self._kept)

    def saving(self, group: int, mask: Mask) -> float:
        return self.seconds - self._time({**self._kept, group: int((~mask).sum())})

    def take(self, group: int, mask: Mask) -> None:
        self._kept[group] = int((~mask).sum())


def network() -> PruneGroups:
    return find_groups(graph_of(
        {"x": "float[1,3,8,8]"},
        """
        a = Conv <kernel_shape=[1,1]> (x, w1)
        b = Relu (a)
        c = Conv <kernel_shape=[1,1]> (b, w2)
        d = Relu (c)
        e = Conv <kernel_shape=[1,1]> (d, w3)
        f = Relu (e)
        y = Conv <kernel_shape=[1,1]> (f, w4)
        """,
        w1=rand(32, 3, 1, 1), w2=rand(48, 32, 1, 1), w3=rand(64, 48, 1, 1), w4=rand(10, 64, 1, 1),
    ))  # fmt: skip


def flops(kept: dict[int, int]) -> float:
    a, b, c = (kept[i] for i in range(3))
    return float(3 * a + a * b + b * c + 10 * c)


def steps_of_eight(kept: dict[int, int]) -> float:
    """Time of kernels that work on eight channels at once."""
    return flops({i: -(-n // 8) * 8 for i, n in kept.items()})


def scores_of(groups: PruneGroups, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {g.index: rng.uniform(0.1, 1.9, g.size) * 10.0 ** rng.integers(-3, 3) for g in groups.groups}


def counts(plan: PrunePlan) -> dict[int, int]:
    return {g.index: plan.kept(g) for g in plan.groups.groups}


@pytest.mark.parametrize("time", [flops, steps_of_eight])
@pytest.mark.parametrize("part", [0.8, 0.5, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_keeps_the_limit_and_more_than_uniform_removal(time: Time, part: float, seed: int) -> None:
    groups = network()
    scores = scores_of(groups, seed)
    descent = Descent(groups, scores, CountingClock(groups, time))
    limit = part * descent.seconds[0]
    steps = descent.steps_to(limit)
    assert steps is not None
    plan = descent.plan(steps)
    assert time(counts(plan)) <= limit
    assert time(counts(plan)) == pytest.approx(descent.seconds[steps])
    uniform = fit_budget(groups, scores, Budget("latency", limit, False), lambda p: time(counts(p)))
    assert kept_importance(plan, scores) >= kept_importance(uniform, scores) - 0.01


@pytest.mark.parametrize("seed", range(4))
def test_what_was_taken_too_much_is_given_back(seed: int) -> None:
    groups = network()
    scores = scores_of(groups, seed)

    def coarse(kept: dict[int, int]) -> float:
        return kept[0] + kept[1] + 30.0 * -(-kept[2] // 32)

    def time(plan: PrunePlan) -> float:
        return coarse(counts(plan))

    descent = Descent(groups, scores, CountingClock(groups, coarse))
    for limit in (130.0, 105.0, 80.0, 60.0):
        steps = descent.steps_to(limit) or 0
        plan, less = descent.plan(steps), descent.give_back(steps, limit, time)
        assert time(plan) <= time(less) <= limit
        assert kept_importance(less, scores) >= kept_importance(plan, scores)
        assert all(not (less.removed[i] & ~plan.removed[i]).any() for i in less.removed)
        if time(plan) < limit - 6 and steps:
            assert time(less) > time(plan)


def test_takes_what_saves_time_and_leaves_the_rest() -> None:
    groups = network()
    descent = Descent(groups, scores_of(groups), CountingClock(groups, lambda kept: 100.0 + kept[1]))
    steps = descent.steps_to(110.0)
    assert steps is not None
    assert counts(descent.plan(steps)) == {0: 32, 1: 10, 2: 64}


def test_goes_through_steps_that_save_nothing_by_themselves() -> None:
    groups = network()
    clock = CountingClock(groups, lambda kept: 1.0 if kept[2] <= 24 else 2.0)
    descent = Descent(groups, scores_of(groups), clock)
    steps = descent.steps_to(1.5)
    assert steps == 1
    assert counts(descent.plan(steps))[2] <= 24
    assert counts(descent.plan(steps))[0] == 32


def test_the_least_important_channels_go_in_multiples() -> None:
    groups = network()
    scores = scores_of(groups)
    descent = Descent(groups, scores, CountingClock(groups, flops), multiple=8)
    plan = descent.plan(descent.steps_to(0.5 * descent.seconds[0]) or 0)
    for group in groups.groups:
        assert plan.kept(group) % 8 == 0
        mask = plan.removed.get(group.index, np.zeros(group.size, bool))
        if mask.any():
            assert scores[group.index][mask].max() <= scores[group.index][~mask].min()


def test_what_can_not_be_reached_is_none() -> None:
    groups = network()
    descent = Descent(groups, scores_of(groups), CountingClock(groups, flops))
    assert descent.steps_to(1.0) is None
    assert counts(descent.plan(len(descent.steps))) == {0: 1, 1: 1, 2: 1}
    assert descent.steps_to(2 * descent.seconds[0]) == 0
    assert all(a >= b for a, b in zip(descent.seconds, descent.seconds[1:]))


def test_exclusions_and_ratios_of_their_own() -> None:
    groups = network()
    first, second, _ = groups.groups
    descent = Descent(
        groups, scores_of(groups), CountingClock(groups, flops), exclude=[first.name], ratios={second.name: 0.5}
    )
    assert descent.steps_to(1.0) is None
    assert counts(descent.plan(0)) == {0: 32, 1: 24, 2: 64}
    assert counts(descent.plan(len(descent.steps))) == {0: 32, 1: 24, 2: 1}
    with pytest.raises(UserError, match="no layer and no group"):
        Descent(groups, scores_of(groups), CountingClock(groups, flops), exclude=["nothing"])


def test_channels_without_a_finite_score_stay() -> None:
    groups = network()
    scores = scores_of(groups)
    scores[2][:60] = np.inf
    ladder = Ladder(groups.groups[2], scores[2], 1)
    assert ladder.stops == (0, 1, 2, 3, 4)


def test_kept_importance_is_the_mean_over_layers() -> None:
    groups = network()
    scores = {g.index: np.ones(g.size) for g in groups.groups}
    half = np.arange(32) < 16
    assert kept_importance(PrunePlan(groups, {}), scores) == 1.0
    assert kept_importance(PrunePlan(groups, {0: half}), scores) == pytest.approx(0.5 ** (1 / 3))

"""Budgets: what text means, what is refused and why, and how near the plans come."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import UserError
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.choice.budget import Budget, fit_budget, parse_budget, size_measure
from graphopt.passes.prune.choice.size import size_of
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.plan import PrunePlan
from tests.support.onnx_graphs import graph_of, rand


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency=0.6x", Budget("latency", 0.6, True)),
        ("latency=3ms", Budget("latency", 0.003, False)),
        ("latency=250us", Budget("latency", 250e-6, False)),
        ("params=1.5M", Budget("params", 1.5e6, False)),
        ("Parameters = 12000", Budget("params", 12000, False)),
        ("params=50%", Budget("params", 0.5, True)),
        ("flops=2G", Budget("flops", 2e9, False)),
        ("flops=0.5X", Budget("flops", 0.5, True)),
        ("bytes=4MB", Budget("bytes", 4e6, False)),
        ("bytes=4MiB", Budget("bytes", 4 * 2**20, False)),
        ("size=1e3", Budget("bytes", 1000, False)),
    ],
)
def test_text(text: str, expected: Budget) -> None:
    found = parse_budget(text)
    assert (found.quantity, found.relative) == (expected.quantity, expected.relative)
    assert found.amount == pytest.approx(expected.amount, rel=1e-12)
    assert parse_budget(str(found)).amount == pytest.approx(found.amount, rel=1e-2)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("0.5", "no budget", "QUANTITY=AMOUNT"),
        ("latencies=0.5x", "'latencies'", "did you mean 'latency'?"),
        ("watts=3", "'watts'", "params, flops, bytes, latency"),
        ("latency=fast", "'fast' is no amount of seconds", "a positive number"),
        ("latency=-1ms", "'-1ms' is no amount", "a positive number"),
        ("latency=3", "needs a unit", "ms"),
        ("bytes=4ms", "'ms' is no unit of bytes", "mib"),
        ("params=0x", "nothing", "examples"),
        ("params=1x", "asks for nothing", "0.5x"),
        ("flops=130%", "asks for nothing", "0.5x"),
    ],
)
def test_refused_text(text: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_budget(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def network() -> PruneGroups:
    return find_groups(graph_of(
        {"x": "float[1,3,8,8]"},
        """
        a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1)
        b = Relu (a)
        c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (b, w2)
        d = Relu (c)
        e = Conv <kernel_shape=[1,1]> (d, w3)
        f = Relu (e)
        y = Conv <kernel_shape=[1,1]> (f, w4)
        """,
        w1=rand(32, 3, 3, 3), w2=rand(48, 32, 3, 3), w3=rand(64, 48, 1, 1), w4=rand(10, 64, 1, 1),
    ))  # fmt: skip


def scores_of(groups: PruneGroups) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    return {g.index: rng.uniform(0.5, 1.5, g.size) for g in groups.groups}


@pytest.mark.parametrize("quantity", ["params", "flops", "bytes"])
@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("amount", [0.2, 0.5, 0.9])
def test_the_plan_keeps_to_the_budget_and_uses_it(quantity: str, ranking: str, amount: float) -> None:
    groups = network()
    budget = parse_budget(f"{quantity}={amount}x")
    plan = fit_budget(
        groups,
        scores_of(groups),
        budget,
        size_measure(groups, budget.quantity),
        ranking=ranking,  # type: ignore[arg-type]
    )
    before, after = size_of(groups.graph), size_of(apply_plan(plan))
    name = {"params": "parameters"}.get(quantity, quantity)
    part = getattr(after, name) / getattr(before, name)
    assert amount - 0.06 < part <= amount


def test_rounding_exclusions_and_ratios_hold_under_a_budget() -> None:
    groups = network()
    first, second, third = groups.groups
    plan = fit_budget(
        groups, scores_of(groups), parse_budget("params=0.7x"), size_measure(groups, "params"),
        multiple=8, exclude=[first.name], ratios={second.name: 0.25},
    )  # fmt: skip
    assert plan.kept(first) == first.size
    assert plan.kept(second) == 40
    assert plan.kept(third) % 8 == 0
    assert size_measure(groups, "params")(plan) <= 0.7 * size_of(groups.graph).parameters


def test_ratios_that_do_it_alone_leave_the_rest_whole() -> None:
    groups = network()
    first, second, third = groups.groups
    plan = fit_budget(
        groups,
        scores_of(groups),
        parse_budget("params=0.9x"),
        size_measure(groups, "params"),
        ratios={second.name: 0.5},
    )
    assert [plan.kept(g) for g in (first, second, third)] == [32, 24, 64]


def test_a_budget_out_of_reach_says_what_can_be_reached() -> None:
    groups = network()
    with pytest.raises(UserError) as caught:
        fit_budget(
            groups, scores_of(groups), parse_budget("params=10"), size_measure(groups, "params"),
            multiple=16, exclude=[groups.groups[0].name],
        )  # fmt: skip
    assert caught.value.code == "impossible-budget"
    left = 32 * 27 + 8 * 32 * 9 + 8 * 16 + 10 * 16  # the second group goes down to half a multiple
    assert f"{left / 1000:.4g}K" in caught.value.notes[0]
    assert "1 pattern of layers excluded" in caught.value.notes
    assert "multiple and exclude" in (caught.value.hint or "")


def test_a_budget_that_is_met_is_refused() -> None:
    groups = network()
    with pytest.raises(UserError, match="asks for nothing: the model has"):
        fit_budget(groups, scores_of(groups), parse_budget("bytes=1GB"), size_measure(groups, "bytes"))


def test_a_measure_of_ones_own() -> None:
    groups = network()

    def most_channels(plan: PrunePlan) -> float:
        return float(max(plan.kept(g) for g in groups.groups))

    plan = fit_budget(groups, scores_of(groups), parse_budget("flops=33"), most_channels, ranking="local")
    assert max(plan.kept(g) for g in groups.groups) in (31, 32, 33)

"""Predicted times of plans, the search for a budget with measured times that are made up, and one that is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.prediction import Predictor
from graphopt.driver.bench.measure import Contender, Latency
from graphopt.driver.compiling import to_program
from graphopt.driver.latency_fit import ROUNDS, fit_latency, side_by_side
from graphopt.driver.plan_latency import LatencyModel, RunningLatency
from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.choice.budget import Budget, fit_budget, parse_budget
from graphopt.passes.prune.choice.latency_search import kept_importance
from graphopt.passes.prune.choice.ranking import select
from graphopt.passes.prune.choice.size import size_of
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.plan import PrunePlan
from tests.support.onnx_graphs import graph_of, rand


def network(batch: str = "1") -> Graph:
    """Convolutions with batch normalization and a residual, a depthwise one, a pooled classifier."""
    consts: dict[str, Any] = {}
    for name, channels in (("n1", 64), ("n2", 64)):
        consts |= {f"{name}{k}": rand(channels, positive=True, seed=i) for i, k in enumerate("sbmv")}
    return graph_of(
        {"x": f"float[{batch},3,28,28]"},
        """
        a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1)
        an = BatchNormalization (a, n1s, n1b, n1m, n1v)
        ar = Relu (an)
        b = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (ar, w2)
        bn = BatchNormalization (b, n2s, n2b, n2m, n2v)
        s = Add (ar, bn)
        sr = Relu (s)
        c = Conv <kernel_shape=[1,1]> (sr, w3)
        d = Conv <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], group=128> (c, w4)
        dr = Relu (d)
        e = Conv <kernel_shape=[1,1]> (dr, w5)
        p = GlobalAveragePool (e)
        f = Flatten (p)
        y = Gemm <transB=1> (f, w6)
        """,
        w1=rand(64, 3, 3, 3), w2=rand(64, 64, 3, 3), w3=rand(128, 64, 1, 1), w4=rand(128, 1, 3, 3),
        w5=rand(256, 128, 1, 1), w6=rand(10, 256), **consts,
    )  # fmt: skip


def sequence() -> Graph:
    """One-dimensional and grouped convolutions, a transposed one, matrix products."""
    return graph_of(
        {"x": "float[2,16,64]"},
        """
        a = Conv <kernel_shape=[3], pads=[1,1]> (x, w1)
        b = Conv <kernel_shape=[3], pads=[1,1], group=4> (a, w2)
        c = Relu (b)
        u = ConvTranspose <kernel_shape=[2], strides=[2]> (c, w3)
        t = Transpose <perm=[0,2,1]> (u)
        m = MatMul (t, w4)
        r = Relu (m)
        y = MatMul (r, w5)
        """,
        w1=rand(64, 16, 3), w2=rand(64, 16, 3), w3=rand(64, 48, 2), w4=rand(48, 96), w5=rand(96, 5),
    )  # fmt: skip


def scores_of(groups: PruneGroups) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    return {g.index: rng.uniform(0.1, 1.9, g.size) for g in groups.groups}


def model_of(graph: Graph, target: str = "x86-64-v4") -> LatencyModel:
    return LatencyModel(find_groups(graph), to_program(graph, target, threads=1)[2])


@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3", "arm"])
@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_predictions_for_a_plan_are_those_of_the_pruned_model(target: str, ratio: float) -> None:
    graph = network()
    model = model_of(graph, target)
    plan = select(model.groups, scores_of(model.groups), ratio=ratio, multiple=16)
    lowered = Predictor(parse_target(target, 1)).seconds(to_program(apply_plan(plan), target, threads=1)[2])
    assert model.seconds_before == pytest.approx(
        Predictor(parse_target(target, 1)).seconds(to_program(graph, target, threads=1)[2])
    )
    assert model.seconds(plan) == pytest.approx(lowered, rel=0.02)
    assert lowered < 0.9 * model.seconds_before


@pytest.mark.parametrize("make", [sequence, lambda: network("N")])
def test_other_layers_and_open_dimensions_shrink_too(make: Any) -> None:
    model = model_of(make())
    plan = select(model.groups, scores_of(model.groups), ratio=0.5, multiple=8)
    assert 0 < model.seconds(plan) < 0.9 * model.seconds_before


def test_a_gpu_has_predictions_by_bytes_and_operations() -> None:
    model = model_of(network(), "cuda:sm_80")
    plan = select(model.groups, scores_of(model.groups), ratio=0.5, multiple=8)
    assert 0 < model.seconds(plan) < model.seconds_before


def test_the_running_model_agrees_with_the_one_without_state() -> None:
    model = model_of(network())
    clock = RunningLatency(model)
    removed: dict[int, Any] = {}
    for group in model.groups.groups:
        for part in (0.25, 0.5):
            mask = np.arange(group.size) < part * group.size
            before, saving = clock.seconds, clock.saving(group.index, mask)
            assert clock.seconds == before
            clock.take(group.index, mask)
            removed[group.index] = mask
            assert clock.seconds == pytest.approx(before - saving)
            assert clock.seconds == pytest.approx(model.seconds(PrunePlan(model.groups, dict(removed))))


@pytest.mark.parametrize(
    ("target", "expected"),
    [("x86-64-v4", 16), ("x86-64-v3", 8), ("x86-64-v2", 8), ("arm", 8), ("cuda:sm_80", 8)],
)
def test_channel_multiple(target: str, expected: int) -> None:
    assert Predictor(parse_target(target)).channel_multiple == expected


def fake(model: LatencyModel, factor: float, constant: float = 0.0) -> tuple[Any, list[Graph]]:
    """A timer: what is predicted, times a factor, plus a constant that no removal changes. And what it was asked for."""
    asked: list[Graph] = []

    def seconds(graph: Graph) -> float:
        part = size_of(graph).flops / size_of(model.groups.graph).flops
        return factor * model.seconds_before * part + constant

    def timer(graph: Graph) -> tuple[float, float]:
        asked.append(graph)
        return seconds(model.groups.graph), seconds(graph)

    return timer, asked


@pytest.mark.parametrize("part", [0.8, 0.5])
@pytest.mark.parametrize("constant", [0.0, 0.2])
def test_the_measured_time_keeps_to_the_budget(part: float, constant: float) -> None:
    model = model_of(network())
    timer, _ = fake(model, 3.0, constant * model.seconds_before)
    found = fit_latency(
        model.groups,
        scores_of(model.groups),
        Budget("latency", part, True),
        "x86-64-v4",
        threads=1,
        timer=timer,
        multiple=4,
    )
    assert found.measured is not None
    assert found.measured_before is not None
    assert 0.6 * part < found.measured / found.measured_before <= part  # time falls in steps of whole vectors
    assert len({t.predicted for t in found.trials}) == len(found.trials), "no plan is measured twice"
    assert timer(apply_plan(found.plan))[1] == found.measured
    assert len(found.trials) <= ROUNDS
    assert found.note is None


def test_a_time_means_measured_time() -> None:
    model = model_of(network())
    timer, _ = fake(model, 7.0)
    before = timer(model.groups.graph)[0]
    budget = Budget("latency", 0.6 * before, False)
    found = fit_latency(model.groups, scores_of(model.groups), budget, "x86-64-v4", threads=1, timer=timer)
    assert found.measured is not None
    assert 0.4 * before < found.measured <= 0.6 * before
    with pytest.raises(UserError, match="asks for nothing"):
        fit_latency(
            model.groups,
            scores_of(model.groups),
            Budget("latency", 2 * before, False),
            "x86-64-v4",
            threads=1,
            timer=timer,
        )


def test_out_of_reach_says_what_was_measured_at_the_end() -> None:
    model = model_of(network())
    timer, asked = fake(model, 1.0, 9 * model.seconds_before)
    with pytest.raises(UserError) as caught:
        fit_latency(
            model.groups, scores_of(model.groups), Budget("latency", 0.5, True), "x86-64-v4", threads=1, timer=timer
        )
    assert caught.value.code == "impossible-budget"
    assert "0.9" in caught.value.notes[0]
    assert size_of(asked[-1]).parameters < 0.1 * size_of(model.groups.graph).parameters


@pytest.mark.parametrize(("target", "part"), [("arm", 0.6), ("cuda:sm_80@arm", 0.9)])
def test_targets_that_do_not_run_here_are_only_predicted(target: str, part: float) -> None:
    groups = find_groups(network())
    found = fit_latency(groups, scores_of(groups), parse_budget(f"latency={part}x"), target, threads=1)
    assert found.measured is None
    assert not found.is_measured
    assert found.note is not None
    assert "predicted only" in found.note
    assert found.predicted <= part * found.predicted_before
    assert all(found.plan.kept(g) % 8 == 0 for g in groups.groups)


@pytest.mark.parametrize("part", [0.8, 0.6, 0.4])
def test_keeps_at_least_as_much_as_uniform_removal_in_the_same_time(part: float) -> None:
    model = model_of(network(), "arm")
    scores = scores_of(model.groups)
    budget = Budget("latency", part, True)
    found = fit_latency(model.groups, scores, budget, "arm", threads=1, multiple=8)
    uniform = fit_budget(model.groups, scores, budget, model.seconds, multiple=8)
    assert found.kept >= kept_importance(uniform, scores)
    assert model.seconds(found.plan) <= part * model.seconds_before


def test_compiled_and_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = sequence()
    groups = find_groups(graph)
    target = parse_target("native", 1)
    seen: list[list[str]] = []

    def stopwatch(contenders: Sequence[Contender]) -> list[Latency]:
        """One run of each, and times that are made up: what is compiled is what counts here."""
        seen.append([c.name for c in contenders])
        results = [next(iter(c.run().values())) for c in contenders]
        assert results[0].shape == results[1].shape
        assert not np.array_equal(*results)
        return [Latency(c.name, ms, ms, ms, 1, None, 1.0) for c, ms in zip(contenders, (2.0, 1.0))]

    timer = side_by_side(graph, target, stopwatch=stopwatch)
    found = fit_latency(groups, scores_of(groups), parse_budget("latency=0.51x"), target, timer=timer)
    assert seen == [["original", "pruned"]]
    assert (found.measured_before, found.measured) == (0.002, 0.001)
    monkeypatch.setattr("graphopt.driver.latency_fit.REPEAT", 2)
    before, after = side_by_side(graph, target, {"x": rand(2, 16, 64)})(apply_plan(found.plan))
    assert before > 0
    assert after > 0

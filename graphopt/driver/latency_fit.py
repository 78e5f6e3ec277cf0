"""A budget of latency: search by prediction, measure what comes out, correct the aim, until the measured latency keeps to it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.target import Target
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.prediction import Predictor
from graphopt.backends.targets.runnable import can_run_here
from graphopt.driver.bench.measure import Contender, Latency, measure
from graphopt.driver.compiling import compile, signature_of, to_program
from graphopt.driver.fixed_extents import at_extents
from graphopt.driver.plan_latency import LatencyModel, RunningLatency
from graphopt.driver.random_inputs import random_inputs
from graphopt.errors import UserError
from graphopt.ir.graph import Array, Graph
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.choice.budget import Budget, fit_budget, out_of_reach
from graphopt.passes.prune.choice.latency_search import Descent, kept_importance
from graphopt.passes.prune.groups import PruneGroups
from graphopt.passes.prune.plan import PrunePlan

Timer = Callable[[Graph], tuple[float, float]]
"""Seconds of the original and of another graph, measured at the same time."""
Stopwatch = Callable[[Sequence[Contender]], Sequence[Latency]]

ROUNDS = 8
"""Plans that are compiled and measured at most."""
CLOSE = 0.95
"""A plan that uses this much of the budget is not tried to be made larger ..."""
GENEROUS_ROUNDS = 4
"""... nor any once so many have been measured and one keeps to it."""
MARGIN = 0.99
"""After a miss the aim is this much below what the measurement suggests: medians move a little."""
REPEAT = 25
BUDGET_S = 4.0
"""Seconds of measuring a plan."""


@dataclass(frozen=True)
class Trial:
    """One plan that was measured.

    Attributes:
        aim: predicted seconds that were asked of the search.
        predicted: what it found, in predicted seconds.
        before, after: measured seconds of the original and of the plan, side by side.
    """

    aim: float
    predicted: float
    before: float
    after: float


@dataclass(frozen=True)
class LatencyFit:
    """A plan for a budget of latency.

    Attributes:
        plan: what goes.
        predicted_before, predicted: seconds by the cost models, of the original and of the plan.
        measured_before, measured: the same measured side by side; None where the target can't run here.
        kept: part of its importance that a layer keeps (geometric mean).
        trials: all plans measured, in order.
        note: why nothing was measured, else None.
    """

    plan: PrunePlan
    predicted_before: float
    predicted: float
    measured_before: float | None
    measured: float | None
    kept: float
    trials: tuple[Trial, ...] = ()
    note: str | None = None

    @property
    def is_measured(self) -> bool:
        """Whether the latency was measured, not only predicted."""
        return self.measured is not None


def fit_latency(
    groups: PruneGroups,
    scores: Mapping[int, npt.NDArray[np.float64]],
    budget: Budget,
    target: str | Mapping[str, Any] | Target = "native",
    *,
    threads: int | None = None,
    multiple: int | None = None,
    ratios: Mapping[str, float] = {},
    exclude: Sequence[str] = (),
    timer: Timer | None = None,
    feed: Mapping[str, Array] | None = None,
    seed: int = 0,
) -> LatencyFit:
    """The plan that loses least importance among those that the search finds to be fast enough.

    Args:
        groups: of the graph to prune.
        scores: by group index, [channels], higher for channels to keep.
        budget: of latency; a time is compared with measured ones, or with predicted ones where nothing can be measured.
        target: as for ``graphopt.compile``.
        threads: CPU threads; by default all cores of the process's affinity mask.
        multiple: channels that stay are a multiple of this; by default what suits the target (`Predictor.channel_multiple`).
        ratios, exclude: as in ``ranking.select``.
        timer: instead of compiling for the target and measuring here.
        feed: inputs to measure with; random ones by default.
        seed: of random inputs.

    Raises:
        UserError: the model is fast enough as it is, or can't be made fast enough: says how far one gets.
        UnsupportedOpError, CompileError: the model can't be compiled.
    """
    if budget.quantity != "latency":
        raise ValueError(f"not a budget of latency: {budget}")
    goal = target if isinstance(target, Target) else _target(target, threads)
    step = Predictor(goal).channel_multiple if multiple is None else multiple
    inputs = random_inputs(signature_of(groups.graph), seed) if feed is None else feed
    program = to_program(at_extents(groups.graph, inputs), goal.name, threads=goal.caps.cores)[2]
    model = LatencyModel(groups, program)
    search = _Search(groups, scores, model, step, ratios, exclude)
    runnable = can_run_here(goal)
    if timer is None and runnable:
        timer = side_by_side(groups.graph, goal, feed, seed)
    if timer is None:
        plan = search.plan(budget, budget.limit(model.seconds_before))
        return LatencyFit(
            plan, model.seconds_before, model.seconds(plan), None, None, kept_importance(plan, scores),
            note=f"the latency is predicted only: {runnable.reason}",
        )  # fmt: skip
    best, trials = _aim(budget, model, search, timer, step, ratios, exclude)
    plan, trial = best
    return LatencyFit(
        plan, model.seconds_before, trial.predicted, trial.before, trial.after, kept_importance(plan, scores), trials
    )


def side_by_side(
    graph: Graph,
    target: Target,
    feed: Mapping[str, Array] | None = None,
    seed: int = 0,
    stopwatch: Stopwatch | None = None,
) -> Timer:
    """A timer that compiles for ``target`` and measures against ``graph``, in alternation; medians."""
    original = compile(graph, target.name, threads=target.caps.cores)
    inputs = random_inputs(original.signature, seed) if feed is None else dict(feed)
    clock = stopwatch or (lambda contenders: measure(contenders, REPEAT, BUDGET_S))

    def time(other: Graph) -> tuple[float, float]:
        pruned = compile(other, target.name, threads=target.caps.cores)
        before, after = clock(
            [Contender("original", lambda: original.run(inputs)), Contender("pruned", lambda: pruned.run(inputs))]
        )
        return before.median_ms / 1e3, after.median_ms / 1e3

    return time


class _Search:
    """Plans by predicted seconds: the greedy descent's, or the uniform one where that keeps more."""

    def __init__(
        self, groups: PruneGroups, scores: Mapping[int, npt.NDArray[np.float64]], model: LatencyModel, multiple: int,
        ratios: Mapping[str, float], exclude: Sequence[str],
    ) -> None:  # fmt: skip
        self._groups, self._scores, self._model = groups, scores, model
        self._options: dict[str, Any] = {"multiple": multiple, "ratios": ratios, "exclude": exclude}
        self._descent = Descent(groups, scores, RunningLatency(model), **self._options)

    def lowest(self) -> PrunePlan:
        """The plan that leaves as little as may be left."""
        self._descent.steps_to(0.0)
        return self._descent.plan(len(self._descent.steps))

    def plan(self, budget: Budget, seconds: float) -> PrunePlan:
        """The plan of at most so many predicted seconds that keeps most importance.

        Raises:
            UserError: there is none.
        """
        steps = self._descent.steps_to(seconds)
        if steps is None:
            raise out_of_reach(budget, seconds, self._descent.seconds[-1], self._model.seconds_before, **self._options)
        found = self._descent.give_back(steps, seconds, self._model.seconds)
        try:
            limit = Budget("latency", seconds, False)
            uniform = fit_budget(self._groups, self._scores, limit, self._model.seconds, **self._options)
        except UserError:
            return found
        return max(found, uniform, key=lambda plan: kept_importance(plan, self._scores))


def _aim(
    budget: Budget, model: LatencyModel, search: _Search, timer: Timer, multiple: int, ratios: Mapping[str, float],
    exclude: Sequence[str],
) -> tuple[tuple[PrunePlan, Trial], tuple[Trial, ...]]:  # fmt: skip
    """Measure plans and move the aim by what the prediction was off, until one keeps to the budget and nearly uses it."""
    whole = model.seconds_before
    before = whole if budget.relative else statistics.fmean(timer(model.groups.graph))
    aim = whole * budget.limit(before) / before
    best: tuple[PrunePlan, Trial] | None = None
    too_slow = whole
    trials: list[Trial] = []
    last_resort = False
    while len(trials) < ROUNDS and not last_resort:
        try:
            plan = search.plan(budget, aim)
        except UserError:
            if best is not None:
                break
            plan, last_resort = search.lowest(), True  # a prediction may be wrong
        predicted = model.seconds(plan)
        if best is not None and any(predicted == t.predicted for t in trials):
            break  # time falls in steps, and there is none between
        trial = Trial(aim, predicted, *timer(apply_plan(plan)))
        trials.append(trial)
        over = trial.after / budget.limit(trial.before)
        aim = predicted / over * MARGIN
        if over <= 1:
            if best is None or predicted > best[1].predicted:
                best = plan, trial
            if over >= CLOSE or len(trials) >= GENEROUS_ROUNDS:
                break
        else:
            too_slow = min(too_slow, predicted)
        if best is None:
            aim = min(aim, 0.97 * predicted)
        else:  # what lies between the slowest that keeps to it and the fastest that doesn't
            aim = min(aim, (best[1].predicted + too_slow) / 2)
            if aim <= best[1].predicted * 1.01:
                break
    if best is None:
        fastest = min(trials, key=lambda t: t.after / t.before)
        raise out_of_reach(
            budget, budget.limit(fastest.before), fastest.after, fastest.before, multiple=multiple, ratios=ratios,
            exclude=exclude,
        )  # fmt: skip
    return best, tuple(trials)


def _target(spec: str | Mapping[str, Any], threads: int | None) -> Target:
    return parse_target(spec if isinstance(spec, str) else dict(spec), threads)

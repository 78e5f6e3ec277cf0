"""What is asked of pruning, and the plan that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.backends.base.target import Target
from graphopt.driver.latency_change import Latencies
from graphopt.driver.latency_fit import fit_latency
from graphopt.driver.prune_report import Change
from graphopt.errors import UserError
from graphopt.ir.graph import Array
from graphopt.passes.prune.calibration.statistics import Statistics
from graphopt.passes.prune.choice.budget import Budget, fit_budget, size_measure
from graphopt.passes.prune.choice.ranking import select
from graphopt.passes.prune.groups import PruneGroups
from graphopt.passes.prune.importance import Criterion
from graphopt.passes.prune.plan import PrunePlan


@dataclass(frozen=True)
class PruneRequest:
    """What is asked for; the fields are the arguments of ``graphopt.prune``.

    Raises:
        UserError: both or neither of ratio and budget.
    """

    ratio: float | None
    budget: Budget | None
    judge: Criterion
    ranking: str
    ratios: Mapping[str, float]
    exclude: Sequence[str]
    multiple: int
    target: Target
    seed: int

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.budget is None):
            raise UserError(
                "a ratio and a budget exclude each other" if self.budget else "nothing says how much to remove",
                code="bad-usage", hint="give one of ratio=0.5 (--ratio 0.5) and budget='params=0.5x' (--budget params=0.5x)",
            )  # fmt: skip

    def check(self, groups: PruneGroups) -> None:
        """Refuse what can't be met whatever the scores, before any work.

        Raises:
            UserError: unknown ranking or names, ratios out of range, nothing that could go.
        """
        any_scores = {group.index: np.zeros(group.size) for group in groups.groups}
        select(groups, any_scores, ratio=0.5 if self.ratio is None else self.ratio, **self._how, **self._what)

    def plan(
        self, groups: PruneGroups, stats: Statistics | None, feed: Mapping[str, Array]
    ) -> tuple[PrunePlan, Latencies | None]:
        """Which channels go; with latencies where they had to be found for that.

        Args:
            feed: inputs to measure latency with.

        Raises:
            UserError: unknown names, nothing that could go, a budget out of reach.
        """
        scores = self.judge.score(groups, stats, self.seed)
        times = None
        if self.budget is None:
            assert self.ratio is not None
            plan = select(groups, scores, ratio=self.ratio, **self._how, **self._what)
        elif self.budget.quantity == "latency":
            plan, times = self._fast_enough(groups, scores, self.budget, feed)
        else:
            measure = size_measure(groups, self.budget.quantity)
            plan = fit_budget(groups, scores, self.budget, measure, **self._how, **self._what)
        if plan.is_empty:
            raise UserError(
                f"rounded to multiples of {self.multiple}, no group loses a channel", code="nothing-to-prune",
                hint="ask for more, or for a smaller multiple (--multiple)",
            )  # fmt: skip
        return plan, times

    def _fast_enough(
        self, groups: PruneGroups, scores: Mapping[int, Array], budget: Budget, feed: Mapping[str, Array]
    ) -> tuple[PrunePlan, Latencies]:
        fit = fit_latency(groups, scores, budget, self.target, feed=feed, **self._what)
        measured = None
        if fit.measured_before is not None and fit.measured is not None:
            measured = Change(1e3 * fit.measured_before, 1e3 * fit.measured)
        predicted = Change(1e3 * fit.predicted_before, 1e3 * fit.predicted)
        notes = [] if fit.note is None else [fit.note]
        if self.ranking != "local":
            notes.append("a budget of latency has a ranking of its own: importance lost for time saved")
        return fit.plan, Latencies(predicted, measured, tuple(notes))

    @property
    def _how(self) -> dict[str, Any]:
        """How scores of different groups are compared."""
        return {"ranking": self.ranking, "normalise": not self.judge.comparable}

    @property
    def _what(self) -> dict[str, Any]:
        """What may go."""
        return {"multiple": self.multiple, "ratios": self.ratios, "exclude": self.exclude}

"""Greedy search for a budget of latency: always the channels that lose least importance for the time that they save.

What is lost is the logarithm of the part of a group's importance that stays, once for each layer that makes its channels: a
layer that keeps little of itself becomes dear, whatever the scale of its scores. (Greedy selection by importance over a
latency table: HALP, Shen et al., NeurIPS 2022, arXiv:2110.10811.)
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from graphopt.passes.prune.choice.ranking import queue
from graphopt.passes.prune.choice.selection import producers, wanted_ratios
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups
from graphopt.passes.prune.plan import Mask, PrunePlan

STOPS = 24
"""A group loses its channels in about so many steps."""
GIVERS = 8
"""Groups, those that lost channels last, that are tried for getting some back at the end ..."""
GIVEN_STOPS = 2
"""... and how many steps of theirs."""
LOOK_AHEAD = 2
"""Steps that may go at once: time falls in jumps, where a kernel needs a vector less."""


class Clock(Protocol):
    """Predicted time while channels go. It keeps the state: which are gone by now."""

    @property
    def seconds(self) -> float:
        """Of the whole model in this state."""

    def saving(self, group: int, mask: Mask) -> float:
        """Seconds less if these channels of a group, those that are gone already among them, were gone."""

    def take(self, group: int, mask: Mask) -> None:
        """They are gone from now on."""


class Ladder:
    """The channels of a group from the worst on, and what is lost at each number of them.

    Attributes:
        group: whose channels.
        stops: how many channels may be gone, ascending from 0 (or from what a ratio of its own takes).
    """

    def __init__(self, group: ChannelGroup, scores: npt.NDArray[np.float64], multiple: int) -> None:
        self.group = group
        ordered = queue(group, scores, multiple)
        self._order = ordered.order
        finite = [end for end, cost in zip(ordered.ends, ordered.costs) if math.isfinite(cost)]
        every = max(-(-len(finite) // STOPS), 1)
        self.stops: tuple[int, ...] = (0, *finite[every - 1 :: every])
        if finite and self.stops[-1] != finite[-1]:
            self.stops = (*self.stops, finite[-1])
        values = np.where(np.isfinite(scores), np.maximum(scores, 0.0), 0.0)[ordered.order]
        total = float(values.sum())
        values = values / total if total > 0 else np.full(group.size, 1 / group.size)
        left = 1.0 - np.concatenate([[0.0], np.cumsum(values)])
        self._kept = np.maximum(left, 1e-12)
        self._shares = np.empty(group.size)
        self._shares[ordered.order] = values
        self.layers = max(len(producers(group)), 1)

    def lost(self, before: int, after: int) -> float:
        """What is lost by going from one number of channels gone to another."""
        return self.layers * math.log(self._kept[before] / self._kept[after])

    def share(self, channels: Mask) -> float:
        """The part of the group's importance that these channels have."""
        return float(self._shares[channels].sum())

    def nearest(self, ratio: float) -> int:
        """The stop nearest to a part of the channels."""
        return min(self.stops, key=lambda stop: abs(stop - ratio * self.group.size))

    def mask(self, gone: int) -> Mask:
        """Which channels go."""
        mask = np.zeros(self.group.size, bool)
        mask[self._order[:gone]] = True
        return mask


class Descent:
    """The way down from the whole model, as far as somebody asked for it, to as little as may be left.

    Args:
        scores: by group index, [channels], higher for channels to keep.
        clock: with nothing gone yet.
        multiple, ratios, exclude: as in ``ranking.select``; groups with ratios of their own lose theirs at the start.

    Raises:
        UserError: ratio out of range, unknown layers, nothing that could go.

    Attributes:
        steps: (group index, channels gone from then on).
        seconds: predicted at the start and after each step; never rises.
    """

    def __init__(
        self,
        groups: PruneGroups,
        scores: Mapping[int, npt.NDArray[np.float64]],
        clock: Clock,
        *,
        multiple: int = 1,
        ratios: Mapping[str, float] = {},
        exclude: Sequence[str] = (),
    ) -> None:
        wanted = wanted_ratios(groups, 0.5, ratios, exclude)
        self._groups = groups
        self._clock = clock
        self._ladders = {i: Ladder(groups.groups[i], scores[i], multiple) for i in wanted.ratios}
        self._start = {i: self._ladders[i].nearest(wanted.ratios[i]) for i in sorted(wanted.own & wanted.ratios.keys())}
        for index, gone in self._start.items():
            clock.take(index, self._ladders[index].mask(gone))
        self._at = dict.fromkeys((i for i in self._ladders if i not in self._start), 0)
        # what a second costs, group, place on its ladder, and after how many steps that was so
        self._heap = [(0.0, index, 0, -1) for index in self._at]
        self.steps: list[tuple[int, int]] = []
        self.seconds: list[float] = [clock.seconds]

    def steps_to(self, seconds: float) -> int | None:
        """How many steps it takes to get there, None when all that there are don't suffice."""
        while self.seconds[-1] > seconds and self._step():
            pass
        found = bisect_left([-s for s in self.seconds], -seconds)
        return found if found < len(self.seconds) else None

    def plan(self, steps: int) -> PrunePlan:
        """The plan after some of the steps that were taken."""
        return self._plan({**self._start, **dict(self.steps[:steps])})

    def give_back(self, steps: int, seconds: float, measure: Callable[[PrunePlan], float]) -> PrunePlan:
        """The plan after ``steps``, less what it takes more than ``seconds`` asks for: the last step may have been a long one.

        Args:
            measure: predicted seconds of a plan.
        """
        counts = {**self._start, **dict(self.steps[:steps])}
        for index in list(dict.fromkeys(group for group, _ in reversed(self.steps[:steps])))[:GIVERS]:
            stops = self._ladders[index].stops
            place = stops.index(counts[index])
            for fewer in stops[max(place - GIVEN_STOPS, 0) : place]:
                if measure(self._plan({**counts, index: fewer})) <= seconds:
                    counts[index] = fewer
                    break
        return self._plan(counts)

    def _plan(self, counts: Mapping[int, int]) -> PrunePlan:
        return PrunePlan(self._groups, {i: self._ladders[i].mask(n) for i, n in counts.items() if n})

    def _step(self) -> bool:
        """Take the next step; whether there was one."""
        while self._heap:
            _, index, place, valid = heapq.heappop(self._heap)
            ladder = self._ladders[index]
            if valid == len(
                self.steps
            ):  # prices only rise while neighbours shrink: one that is still the least is the least
                gone = ladder.stops[place]
                self._clock.take(index, ladder.mask(gone))
                self._at[index] = place
                self.steps.append((index, gone))
                self.seconds.append(min(self._clock.seconds, self.seconds[-1]))
                heapq.heappush(self._heap, (0.0, index, place, -1))
                return True
            best = self._best(index)
            if best is not None:
                heapq.heappush(self._heap, (best[0], index, best[1], len(self.steps)))
        return False

    def _best(self, index: int) -> tuple[float, int] | None:
        """What a second saved costs with the next steps of a group, at best, and how far down its ladder that is."""
        ladder, at = self._ladders[index], self._at[index]
        best: tuple[float, int] | None = None
        for place in range(at + 1, len(ladder.stops)):
            if place > at + LOOK_AHEAD and best is not None:
                break
            saved = self._clock.saving(index, ladder.mask(ladder.stops[place]))
            if saved > 0:
                price = ladder.lost(ladder.stops[at], ladder.stops[place]) / saved
                if best is None or price < best[0]:
                    best = (price, place)
        return best


def kept_importance(plan: PrunePlan, scores: Mapping[int, npt.NDArray[np.float64]]) -> float:
    """The part of its importance that a layer keeps: geometric mean over the layers of all groups, 1 for an empty plan."""
    logs = 0.0
    layers = 0
    for group in plan.groups.groups:
        count = max(len(producers(group)), 1)
        layers += count
        mask = plan.removed.get(group.index)
        if mask is not None:
            ladder = Ladder(group, scores[group.index], 1)
            logs += count * math.log(max(ladder.share(~mask), 1e-12))
    return math.exp(logs / layers) if layers else 1.0

"""From scores to a plan: which channels of which groups go.

Channels leave a group in *blocks*, worst first, so that what stays is a multiple of what the machine computes at once. A
ranking over several groups is one sorted list of their blocks.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Use
from graphopt.passes.prune.choice.selection import wanted_ratios
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups
from graphopt.passes.prune.labels import Role
from graphopt.passes.prune.plan import Mask, PrunePlan

Ranking = Literal["local", "global", "isomorphic"]
RANKINGS: tuple[str, ...] = get_args(Ranking)
Structure = frozenset[tuple[tuple[str, int, int, Role], int]]


@dataclass(frozen=True)
class Queue:
    """The channels of a group in the order in which they would go.

    Attributes:
        group: whose channels.
        order: int64 [size]: worst first.
        ends: after how many channels one may stop, ascending, without 0.
        costs: mean score of each block, never falling.
    """

    group: ChannelGroup
    order: npt.NDArray[np.int64]
    ends: tuple[int, ...]
    costs: tuple[float, ...]

    def nearest(self, count: float) -> int:
        """The stop nearest to ``count`` channels; of two equally near ones the smaller."""
        return min((0, *self.ends), key=lambda end: abs(end - count))


def select(
    groups: PruneGroups,
    scores: Mapping[int, npt.NDArray[np.float64]],
    *,
    ratio: float,
    ranking: str = "local",
    multiple: int = 1,
    ratios: Mapping[str, float] = {},
    exclude: Sequence[str] = (),
    normalise: bool = True,
) -> PrunePlan:
    """Remove the channels that matter least.

    Args:
        scores: by group index, [channels], higher for channels to keep; see ``graphopt.passes.prune.importance``.
        ratio: part of the channels to remove, of each group or in all.
        ranking: ``local``: the same part of each group. ``global``: the lowest scores of all groups. ``isomorphic``: the
            same part of each set of groups with the same structure, the lowest scores within the set (Fang et al., ECCV
            2024, arXiv:2407.04616); structure is which operators use the channels in which role.
        multiple: channels that stay are rounded to a multiple of this (lanes of a vector, edge of a matrix tile), to the
            nearest one; groups of fewer than four multiples to a half of it, the smallest to a quarter and so on.
        ratios: ratios of groups of their own, by name or pattern of a group or of a layer that produces its channels;
            these groups are ranked locally.
        exclude: names or patterns of groups or producing layers that keep all output channels.
        normalise: divide the scores of each group by their mean before groups are compared.

    Raises:
        UserError: ratio or multiple out of range, unknown ranking or layers, nothing that could go.
    """
    if ranking not in RANKINGS:
        raise UserError(
            f"there is no ranking called {ranking!r}",
            code="unknown-ranking",
            hint=did_you_mean(ranking, RANKINGS) or f"rankings are {', '.join(RANKINGS)}",
        )
    if multiple < 1:
        raise UserError(
            f"channels can't be rounded to multiples of {multiple}", code="bad-multiple", hint="give 1 or more"
        )
    wanted = wanted_ratios(groups, ratio, ratios, exclude)
    queues = {i: queue(groups.groups[i], scores[i], multiple, normalise=normalise) for i in wanted.ratios}
    removed: dict[int, Mask] = {}
    pools: dict[object, list[int]] = defaultdict(list)
    for index in wanted.ratios:
        if ranking == "local" or index in wanted.own:
            pools[index].append(index)
        else:
            pools[structure(groups.groups[index]) if ranking == "isomorphic" else None].append(index)
    for members in pools.values():
        if len(members) == 1:
            one = queues[members[0]]
            counts = {members[0]: one.nearest(wanted.ratios[members[0]] * one.group.size)}
        else:
            counts = _lowest([queues[i] for i in members], ratio)
        for index, count in counts.items():
            if count:
                mask = np.zeros(groups.groups[index].size, bool)
                mask[queues[index].order[:count]] = True
                removed[index] = mask
    return PrunePlan(groups, removed)


def queue(group: ChannelGroup, scores: npt.NDArray[np.float64], multiple: int = 1, *, normalise: bool = True) -> Queue:
    """The group's channels from the worst to the best, in blocks that leave a multiple. Scores that are no numbers stay.

    Args:
        scores: [size].
    """
    finite = np.isfinite(scores)
    mean = float(np.abs(scores[finite]).mean()) if finite.any() else 0.0
    values = np.where(finite, scores / mean if normalise and mean > 0 else scores, np.inf)
    order = np.argsort(values, kind="stable")
    ends = tuple(sorted(group.size - kept for kept in _amounts(group, multiple)))
    blocks = np.split(values[order], ends)[:-1]
    costs = np.maximum.accumulate([block.mean() for block in blocks]) if blocks else np.zeros(0)
    return Queue(group, order.astype(np.int64), ends, tuple(float(c) for c in costs))


def _amounts(group: ChannelGroup, multiple: int) -> set[int]:
    """Numbers of channels that may stay when some go: multiples, in groups of fewer than four of them multiples of a half, and
    where even that leaves no choice a half, a quarter, ... down to one. Coarser rounding would miss the ratio by more than an
    eighth of the group, or leave small groups the same at every ratio, for a few percent of speed."""
    unit = step(group, multiple)
    if unit > 1 and group.size < 4 * unit:
        unit //= 2
    if group.size >= 2 * unit:
        return set(range(unit, group.size, unit))
    return {unit >> shift for shift in range(unit.bit_length()) if unit >> shift < group.size}


def step(group: ChannelGroup, multiple: int) -> int:
    """What the number of channels that stay is a multiple of, so that the axes of the group's layers are of ``multiple``.

    A channel that takes a run of adjacent indices, such as an attention head, needs less rounding than one of its own.
    """
    run = 0
    for member in group.members:
        if isinstance(member.slot, Use) and member.role in (Role.OUT, Role.IN):
            run = math.gcd(run, _run(member.positions))
    return multiple // math.gcd(multiple, run or 1)


def _run(positions: npt.NDArray[np.int64]) -> int:
    """How many adjacent indices a channel takes in an axis; 1 when its indices lie apart."""
    adjacent = bool((np.diff(positions, axis=1) == 1).all())
    return positions.shape[1] if adjacent else 1


def structure(group: ChannelGroup) -> Structure:
    """What groups of the same structure have in common: how often which operator uses the channels as what."""
    found = Counter(
        (m.layer.op, m.slot.index, m.axis, m.role)
        for m in group.members
        if isinstance(m.slot, Use) and m.layer is not None and m.role is not None
    )
    return frozenset(found.items())


def _lowest(queues: Sequence[Queue], ratio: float) -> dict[int, int]:
    """By group index: how many channels go when the cheapest blocks of all queues go, as near to the ratio as they come."""
    blocks = sorted(
        (cost, position, number) for position, q in enumerate(queues) for number, cost in enumerate(q.costs)
    )
    goal = ratio * sum(q.group.size for q in queues)
    counts = [0] * len(queues)
    total = 0
    for _, position, number in blocks:
        more = queues[position].ends[number] - counts[position]
        if abs(total + more - goal) >= abs(total - goal):
            break
        counts[position] += more
        total += more
    return {q.group.index: count for q, count in zip(queues, counts)}

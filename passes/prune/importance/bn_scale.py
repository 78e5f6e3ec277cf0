"""Scale factors of batch normalisations (network slimming, Liu et al., ICCV 2017, arXiv:1708.06519)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.errors import UserError
from graphopt.ir.graph import Use
from graphopt.passes.prune.groups import ChannelGroup, Member, PruneGroups
from graphopt.passes.prune.importance.criterion import CRITERIA, Criterion, LayerMoments, Scores, register
from graphopt.passes.prune.importance.weights import slices
from graphopt.passes.prune.labels import Role

_SCALE = 1
"""Operand of BatchNormalization."""


def scales(group: ChannelGroup) -> Sequence[Member]:
    """The group's scale factors of batch normalisations."""
    return [
        m for m in group.of_role(Role.PARAMETER)
        if isinstance(m.slot, Use) and m.slot.node.op == "BatchNormalization" and m.slot.index == _SCALE and m.value.is_const
    ]  # fmt: skip


@register
class BatchNormScale(Criterion):
    """Magnitude of the scale that a channel is multiplied by. Groups without one are judged by the L2 norm of weights."""

    name = "bn-scale"
    description = "magnitude of the channel's scale in BatchNormalization"

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Summed over all normalisations of the group."""
        found = scales(group)
        if not found:
            return CRITERIA["l2"].score_group(group, stats, rng)
        return sum((np.abs(slices(m)).sum(axis=1) for m in found), np.zeros(group.size))

    def score(self, groups: PruneGroups, stats: LayerMoments | None = None, seed: int = 0) -> dict[int, Scores]:
        """Refuses a graph where not one group has such a scale: it would be L2 under another name."""
        if groups.groups and len(self.fallbacks(groups)) == len(groups.groups):
            raise UserError(
                "no channel that can be removed goes through a BatchNormalization, so 'bn-scale' has nothing to judge by",
                code="criterion-without-ground",
                hint="it was folded into the weights, perhaps: prune the model as it was trained, or take criterion l2",
            )
        return super().score(groups, stats, seed)

    def fallbacks(self, groups: PruneGroups, stats: LayerMoments | None = None) -> tuple[str, ...]:
        """Groups without normalisation."""
        return tuple(g.name for g in groups.groups if not scales(g))

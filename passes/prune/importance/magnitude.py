"""Magnitude of weights: L1 and L2 norms of all that produces a channel (Li et al., ICLR 2017, arXiv:1608.08710)."""

from __future__ import annotations

import numpy as np

from graphopt.passes.prune.groups import ChannelGroup
from graphopt.passes.prune.importance.criterion import Criterion, LayerMoments, Scores, register
from graphopt.passes.prune.importance.weights import judged_by, slices


def squared_norms(group: ChannelGroup) -> Scores:
    """Sum of squares of each channel's weights over all producing layers."""
    return sum((np.square(slices(m)).sum(axis=1) for m in judged_by(group)), np.zeros(group.size))


@register
class L1(Criterion):
    """Sum of magnitudes."""

    name = "l1"
    description = "sum of magnitudes of the weights that produce a channel"

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Over all producing layers."""
        return sum((np.abs(slices(m)).sum(axis=1) for m in judged_by(group)), np.zeros(group.size))


@register
class L2(Criterion):
    """Euclidean norm."""

    name = "l2"
    description = "Euclidean norm of the weights that produce a channel"

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Over all producing layers."""
        norms: Scores = np.sqrt(squared_norms(group))
        return norms

"""Layer-adaptive magnitude (LAMP, Lee et al., ICLR 2021, arXiv:2010.07611), with channels in the place of weights."""

from __future__ import annotations

import numpy as np

from graphopt.passes.prune.groups import ChannelGroup
from graphopt.passes.prune.importance.criterion import Criterion, LayerMoments, Scores, register
from graphopt.passes.prune.importance.magnitude import squared_norms


@register
class Lamp(Criterion):
    """Squared norm relative to the sum over the channels of the group that are at least as large.

    That is how much of what would be left the channel makes up when all smaller ones have gone, so one threshold serves
    groups of any size and scale. Within a group the order is that of L2.
    """

    name = "lamp"
    description = "squared norm of the channel's weights, relative to all larger ones of its group"
    comparable = True

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """In (0, 1], 0 for channels of zeros."""
        squares = squared_norms(group)
        order = np.argsort(squares, kind="stable")
        left = np.cumsum(squares[order][::-1])[::-1]
        scores = np.zeros(group.size)
        scores[order] = np.divide(squares[order], left, out=np.zeros(group.size), where=left > 0)
        return scores

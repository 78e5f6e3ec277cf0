"""Filter pruning via geometric median (He et al., CVPR 2019, arXiv:1811.00250): what is most replaceable goes first."""

from __future__ import annotations

import numpy as np

from graphopt.passes.prune.groups import ChannelGroup
from graphopt.passes.prune.importance.criterion import Criterion, LayerMoments, Scores, register
from graphopt.passes.prune.importance.weights import judged_by, slices


@register
class GeometricMedian(Criterion):
    """Sum of Euclidean distances to the other channels' weights, which is least at the geometric median."""

    name = "fpgm"
    description = "distance of the channel's weights from the geometric median of all"

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """A channel's weights are those of all producing layers, one after another."""
        squares = np.zeros((group.size, group.size))
        for member in judged_by(group):
            rows = slices(member)
            rows -= rows.mean(axis=0)  # distances don't change, and less is cancelled below
            norms = np.square(rows).sum(axis=1)
            squares += norms[:, None] + norms - 2 * (rows @ rows.T)
        np.fill_diagonal(squares, 0)
        total: Scores = np.sqrt(np.maximum(squares, 0)).sum(axis=1)
        return total

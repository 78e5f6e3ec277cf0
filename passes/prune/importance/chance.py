"""Random scores: the control that every criterion has to beat."""

from __future__ import annotations

import numpy as np

from graphopt.passes.prune.groups import ChannelGroup
from graphopt.passes.prune.importance.criterion import Criterion, LayerMoments, Scores, register


@register
class Random(Criterion):
    """Uniform numbers from the seed."""

    name = "random"
    description = "random numbers, as a control"

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Uniform in [0, 1)."""
        return rng.random(group.size)

"""Activations: how strong a channel is where layers read it, after normalisation and activation functions."""

from __future__ import annotations

import numpy as np

from graphopt.passes.prune.groups import ChannelGroup
from graphopt.passes.prune.importance.consumers import channels_in, produced, read_tensors
from graphopt.passes.prune.importance.criterion import CRITERIA, Criterion, LayerMoments, Scores, register


@register
class Activation(Criterion):
    """Root mean square of the channel, summed over the tensors that layers read it from, each relative to its mean."""

    name = "activation"
    description = "root mean square of the channel where layers read it"
    needs_data = True

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Of channels that no layer reads, the root mean square of what is produced; without both, the weights' norm."""
        assert stats is not None
        total = np.zeros(group.size)
        for layer, positions in read_tensors(group, stats):
            by_channel = stats.energy(layer.weight).reshape(channels_in(layer), -1)
            strength = np.sqrt(by_channel.mean(axis=1)[positions].mean(axis=1))
            if strength.any():
                total += strength / strength.mean()
        if not total.any():
            total = np.sqrt(produced(group, stats))
        return total if total.any() else CRITERIA["l2"].score_group(group, stats, rng)

"""First-order effect of a channel on the layers that read it, in closed form from second moments.

Taylor criteria (Molchanov et al., ICLR 2017, arXiv:1611.06440) expand the loss in a channel's activation and need
gradients. The results of the layers that read a channel are linear in it, so for them the expansion is exact and needs none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from graphopt.ir.graph import Use
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups
from graphopt.passes.prune.importance.consumers import Consumer, consumers, grouped, produced
from graphopt.passes.prune.importance.criterion import CRITERIA, Criterion, LayerMoments, Scores, register


@register
class Taylor(Criterion):
    """E||W_c x_c||^2 over all layers that read channel c, each relative to its E||W x||^2.

    Relative, because layers of a group may work at different scales (a normalisation that follows makes scale arbitrary).
    Results that vanish together with the channel don't count.
    """

    name = "taylor"
    description = "mean square of what zeroing the channel changes in the results of the layers that read it"
    needs_data = True

    def score(self, groups: PruneGroups, stats: LayerMoments | None = None, seed: int = 0) -> dict[int, Scores]:
        """Layer by layer, as one may read many groups and its moments are large."""
        if stats is None:
            return super().score(groups, stats, seed)
        found = effects(((g, c) for g in groups.groups for c in consumers(g, stats)), stats)
        return {g.index: _or_produced(found.get(g.index), g, stats) for g in groups.groups}

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Of channels that no layer reads, the part in what is produced; without both, the weights' norm."""
        assert stats is not None
        found = effects(((group, c) for c in consumers(group, stats)), stats)
        return _or_produced(found.get(group.index), group, stats)


def effects(readers: Iterable[tuple[ChannelGroup, Consumer]], stats: LayerMoments) -> dict[int, Scores]:
    """E||W_c x_c||^2 / E||W x||^2 summed over layers, by index of the groups that are read."""
    of_layer: dict[Use, list[tuple[ChannelGroup, Consumer]]] = defaultdict(list)
    for group, consumer in readers:
        of_layer[consumer.layer.weight].append((group, consumer))
    found: dict[int, Scores] = {}
    for uses in of_layer.values():
        for (group, _), own in zip(uses, layer_effects([c for _, c in uses], stats)):
            found[group.index] = found.get(group.index, 0) + own
    return found


def layer_effects(uses: list[Consumer], stats: LayerMoments) -> list[Scores]:
    """The same for one layer that reads several groups. Where products were too many to keep, rows count as uncorrelated."""
    weights = uses[0].weights
    gram, energy = grouped(uses[0].layer, stats)
    if gram is None:
        whole = float((np.square(weights) @ energy[:, :, None]).sum())
    else:
        whole = float(np.vdot(weights @ gram, weights))
    found = [np.zeros(len(use.parts)) for use in uses]
    for use, scores in zip(uses, found):
        for channel, parts in enumerate(use.parts):
            for part in parts:
                own = weights[part.group][:, part.columns]
                own[part.gone] = 0
                if gram is None:
                    scores[channel] += (np.square(own) @ energy[part.group, part.columns]).sum()
                else:
                    block = gram[part.group][np.ix_(part.columns, part.columns)]
                    scores[channel] += np.vdot(own @ block, own)
    return [np.maximum(scores, 0) / whole if whole > 0 else np.zeros(len(scores)) for scores in found]


def _or_produced(scores: Scores | None, group: ChannelGroup, stats: LayerMoments) -> Scores:
    if scores is None or not scores.any():
        scores = produced(group, stats)
    return scores if scores.any() else CRITERIA["l2"].score_group(group, stats, np.random.default_rng(0))

"""First-order effect of a channel on the layers that read it, in closed form from second moments.

Taylor criteria (Molchanov et al., ICLR 2017, arXiv:1611.06440) expand the loss in a channel's activation and need
gradients. The results of the layers that read a channel are linear in it, so for them the expansion is exact and needs none.
"""

from __future__ import annotations

import numpy as np

from graphopt.passes.prune.groups import Group
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

    def score_group(self, group: Group, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Of channels that no layer reads, the part in what is produced; without both, the weights' norm."""
        assert stats is not None
        total: Scores = sum((effects(c, stats) for c in consumers(group, stats)), np.zeros(group.size))
        if not total.any():
            total = produced(group, stats)
        return total if total.any() else CRITERIA["l2"].score_group(group, stats, rng)


def effects(consumer: Consumer, stats: LayerMoments) -> Scores:
    """E||W_c x_c||^2 / E||W x||^2 by channel. Where products were too many to keep, rows count as uncorrelated."""
    weights = consumer.weights
    gram, energy = grouped(consumer.layer, stats)
    if gram is None:
        whole = float(np.einsum("gmk,gk->", np.square(weights), energy))
    else:
        whole = float(np.einsum("gmk,gmk->", weights @ gram, weights))
    found = np.zeros(len(consumer.parts))
    if whole <= 0:
        return found
    for channel, parts in enumerate(consumer.parts):
        for part in parts:
            own = weights[part.group][:, part.columns]
            own[part.gone] = 0
            if gram is None:
                found[channel] += (np.square(own) @ energy[part.group, part.columns]).sum()
            else:
                found[channel] += np.vdot(own @ gram[part.group][np.ix_(part.columns, part.columns)], own)
    return np.maximum(found, 0) / whole

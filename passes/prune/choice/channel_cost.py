"""What one channel of a group takes with it when it alone goes."""

from __future__ import annotations

import numpy as np

from graphopt.passes.prune.choice.size import Size, SizeModel
from graphopt.passes.prune.groups import PruneGroups
from graphopt.passes.prune.plan import PrunePlan


def channel_costs(groups: PruneGroups) -> list[Size]:
    """Parameters, bytes and operations that the first channel of each group stands for, in the order of the groups.

    Open dimensions count as in ``graphopt.passes.prune.choice.size``.
    """
    sizes = SizeModel(groups)
    whole = sizes.of(PrunePlan(groups, {}))
    found = []
    for group in groups.groups:
        first = np.arange(group.size) == 0
        left = sizes.of(PrunePlan(groups, {group.index: first})) if group.size > 1 else whole
        found.append(Size(whole.parameters - left.parameters, whole.bytes - left.bytes, whole.flops - left.flops))
    return found

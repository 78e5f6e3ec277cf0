"""A plan: which channels of which groups go, and what that leaves of every axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from graphopt.passes.prune.groups import ChannelGroup, PruneGroups
from graphopt.passes.prune.labels import Slot

Mask = npt.NDArray[np.bool_]


@dataclass
class PrunePlan:
    """Removal of channels, not yet carried out.

    Attributes:
        groups: of the graph to prune.
        removed: by group index: bool [channels], True for those that go. At least one channel of every group stays.
    """

    groups: PruneGroups
    removed: Mapping[int, Mask]
    _gone: frozenset[int] = field(init=False, default=frozenset())
    _cache: dict[int, tuple[object, Mask]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for index, mask in self.removed.items():
            if mask.all():
                raise ValueError(f"every channel of {self.groups.groups[index].name} would go")
        self._gone = frozenset(
            int(channel) for index, mask in self.removed.items() for channel in self.groups.groups[index].channels[mask]
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing goes."""
        return not self._gone

    def keep(self, slot: Slot) -> list[Mask | None]:
        """For every axis of a tensor: which indices stay; None for symbolic axes, [] for tensors without labels."""
        out: list[Mask | None] = []
        for labels in self.groups.labelling.slots.get(slot, []):
            if labels is None:
                out.append(None)
                continue
            if id(labels) not in self._cache:
                tokens = self.groups.labelling.tokens
                fate = {t: not any(a in self._gone for a in tokens.atoms(t)) for t in set(labels.tolist())}
                self._cache[id(labels)] = (labels, np.asarray([fate[t] for t in labels.tolist()], bool))
            out.append(self._cache[id(labels)][1])
        return out

    def kept(self, group: ChannelGroup) -> int:
        """How many channels of a group stay."""
        mask = self.removed.get(group.index)
        return group.size if mask is None else int((~mask).sum())

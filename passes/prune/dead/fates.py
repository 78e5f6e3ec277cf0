"""What stays of every tensor under one choice of channels after another: a plan whose index maps are resolved only once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from graphopt.passes.prune.groups import PruneGroups
from graphopt.passes.prune.labels import Slot
from graphopt.passes.prune.plan import Mask
from graphopt.passes.prune.tokens import Labels

_Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class Fates:
    """Keep masks like those of ``PrunePlan``, for many choices in a row.

    Attributes:
        place: by channel token: its group's index, and its own in the group.
    """

    def __init__(self, groups: PruneGroups) -> None:
        self._groups = groups
        self.place = {int(c): (g.index, i) for g in groups.groups for i, c in enumerate(g.channels)}
        self._number = {token: n for n, token in enumerate(self.place)}
        self._gone = np.zeros(len(self.place), bool)
        self._pairs: dict[int, tuple[Labels, _Pairs]] = {}
        self._masks: dict[int, Mask] = {}

    def decide(self, removed: Mapping[int, Mask]) -> None:
        """The channels that go from now on, by group index: bool [channels]."""
        masks = [removed[g.index] for g in self._groups.groups]
        self._gone = np.concatenate(masks) if masks else self._gone
        self._masks = {}

    def keep(self, slot: Slot) -> Sequence[Mask | None]:
        """For every axis of a tensor: which indices stay; None for all of them, [] for tensors without labels."""
        return [None if labels is None else self._mask(labels) for labels in self._groups.labelling.slots.get(slot, [])]

    def emptied(self) -> Iterator[Labels]:
        """Axes of which nothing stays."""
        for axes in self._groups.labelling.slots.values():
            for labels in axes:
                if labels is not None and len(labels) and not self._mask(labels).any():
                    yield labels

    def _mask(self, labels: Labels) -> Mask:
        key = id(labels)
        if key not in self._masks:
            positions, channels = self._resolved(labels)
            mask = np.ones(len(labels), bool)
            mask[positions[self._gone[channels]]] = False
            self._masks[key] = mask
        return self._masks[key]

    def _resolved(self, labels: Labels) -> _Pairs:
        """Position along the axis and number of the channel, for all pairs of them that go together."""
        if id(labels) not in self._pairs:
            tokens = self._groups.labelling.tokens
            pairs = [
                (i, self._number[a])
                for i, token in enumerate(labels.tolist())
                for a in tokens.atoms(token)
                if a in self._number
            ]
            both = np.asarray(pairs, np.int64).reshape(-1, 2)
            self._pairs[id(labels)] = (labels, (both[:, 0], both[:, 1]))
        return self._pairs[id(labels)][1]

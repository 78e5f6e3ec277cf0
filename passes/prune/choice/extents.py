"""How much of every axis stays, for any set of channels that go, without touching the graph: what searches call often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Use, Value
from graphopt.ops.context import attr
from graphopt.passes.prune.groups import PruneGroups
from graphopt.passes.prune.labels import Slot, shape_of
from graphopt.passes.prune.plan import Mask

Gone = npt.NDArray[np.bool_]
"""By channel token: True for those that go."""
CACHED_COUNTS = 20_000
"""States of axes that are remembered."""


@dataclass(frozen=True)
class _Axis:
    """Labels of an axis resolved to channels: index ``positions[i]`` goes when channel ``channels[i]`` goes."""

    extent: int
    positions: npt.NDArray[np.int64]
    channels: npt.NDArray[np.int64]


class Extents:
    """Shapes under any removal from one analysed graph. Making one takes about as long as the analysis."""

    def __init__(self, groups: PruneGroups) -> None:
        self.groups = groups
        self._axes: dict[int, _Axis] = {}
        self._keys: dict[Slot, list[int | None]] = {}
        self._tokens = 1 + max((int(g.channels.max()) for g in groups.groups if g.size), default=0)
        self._counts: dict[tuple[int, bytes], int] = {}
        self._atoms: dict[int, tuple[int, ...]] = {}
        prunable = {int(t) for g in groups.groups for t in g.channels.tolist()}
        for slot, axes in groups.labelling.slots.items():
            self._keys[slot] = [None if labels is None else id(labels) for labels in axes]
            for labels in axes:
                if labels is not None and id(labels) not in self._axes:
                    self._axes[id(labels)] = self._resolve(labels.tolist(), prunable)

    def none_gone(self) -> Gone:
        """The state in which everything stays."""
        return np.zeros(self._tokens, bool)

    def gone(self, removed: Mapping[int, Mask]) -> Gone:
        """The state after removing ``removed`` (by group index) from the whole graph."""
        state = self.none_gone()
        for index, mask in removed.items():
            state[self.groups.groups[index].channels[mask]] = True
        return state

    def keep(self, slot: Slot, gone: Gone) -> list[Mask | None]:
        """For every axis of a tensor: which indices stay; None for symbolic axes, [] for tensors without labels."""
        return [None if key is None else self._mask(key, gone) for key in self._keys.get(slot, [])]

    def slot(self, node: Node, index: int) -> Slot | None:
        """Where an input's labels are; None when it is absent."""
        value = node.input(index)
        return None if value is None else Use(node, index) if value.is_const else value

    def shape(self, slot: Slot, gone: Gone) -> tuple[Dim, ...]:
        """What is left of a tensor of known rank."""
        whole: tuple[Dim, ...] = shape_of(slot if isinstance(slot, Value) else _value(slot)) or ()  # type: ignore[assignment]
        keys = self._keys.get(slot)
        if not keys:
            return whole
        return tuple(d if key is None else self._count(key, gone) for d, key in zip(whole, keys))

    def input_shape(self, node: Node, index: int, gone: Gone) -> tuple[Dim, ...]:
        """What is left of an input that is there, as the surgery leaves it."""
        slot = self.slot(node, index)
        assert slot is not None
        shape = self.shape(slot, gone)
        if index == 1 and node.op == "Conv" and not node.domain and int(attr(node, "group") or 1) > 1:
            return self._grouped_weight(node, shape, gone)
        return shape

    def slots_of(self, channels: Iterable[int]) -> list[Slot]:
        """Tensors that lose something when any of the channels goes."""
        state = self.none_gone()
        state[list(channels)] = True
        hit = {key for key, axis in self._axes.items() if state[axis.channels].any()}
        return [slot for slot, keys in self._keys.items() if any(key in hit for key in keys)]

    def _count(self, key: int, gone: Gone) -> int:
        axis = self._axes[key]
        if not len(axis.channels):
            return axis.extent
        state = (key, gone[axis.channels].tobytes())
        if state not in self._counts:
            if len(self._counts) > CACHED_COUNTS:
                self._counts.clear()
            self._counts[state] = int(self._mask(key, gone).sum())
        return self._counts[state]

    def _mask(self, key: int, gone: Gone) -> Mask:
        axis = self._axes[key]
        mask = np.ones(axis.extent, bool)
        mask[axis.positions[gone[axis.channels]]] = False
        return mask

    def _grouped_weight(self, node: Node, shape: tuple[Dim, ...], gone: Gone) -> tuple[Dim, ...]:
        """Where each group loses other positions of its input, the weights are cut group by group.

        Follows the adjusting rule of grouped convolutions.
        """
        slot = self.slot(node, 0)
        assert slot is not None
        groups = int(attr(node, "group"))
        source = self.keep(slot, gone)[1]
        whole = node.inputs[1].shape[1] if node.inputs[1] is not None else None
        if source is None or shape[1] != whole or source.all() or not source.reshape(groups, -1).any(axis=1).all():
            return shape
        return (shape[0], int(source.sum()) // groups, *shape[2:])

    def _resolve(self, tokens: list[int], prunable: set[int]) -> _Axis:
        positions, channels = [], []
        for position, token in enumerate(tokens):
            if token not in self._atoms:
                atoms = self.groups.labelling.tokens.atoms(token)
                self._atoms[token] = tuple(a for a in atoms if a in prunable)
            for atom in self._atoms[token]:
                positions.append(position)
                channels.append(atom)
        return _Axis(len(tokens), np.asarray(positions, np.int64), np.asarray(channels, np.int64))


def _value(use: Use) -> Value:
    value = use.node.input(use.index)
    assert value is not None
    return value

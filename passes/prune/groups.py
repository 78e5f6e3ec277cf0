"""Coupled channel groups: channels that can only go together, all over the graph, and families of such channels.

A *channel* here is one independent decision: a token that other tokens depend on. A *group* is a family of channels that
stand in the same axes of the same tensors, such as the 64 output channels of a convolution with everything that reads them.
(The dependency graph of DepGraph, Fang et al., CVPR 2023, arXiv:2301.12900, for operators with index maps instead of modules.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Graph, Node, Use, Value
from graphopt.ops.registry import AFFINE, has_trait
from graphopt.passes.prune.balance import bundle
from graphopt.passes.prune.labels import Labelling, Role, RuleContext, Slot, shape_of, slot_value
from graphopt.passes.prune.rules.registry import label_rule
from graphopt.passes.prune.tokens import Labels, Tokens

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """One axis that a group's channels stand in.

    Attributes:
        slot: the tensor: a value, or a constant as one node uses it.
        axis: of the tensor.
        positions: int64 [channels, copies]: where each channel stands along the axis.
        role: what the axis is to the layer, for constants of layers.
        layer: that layer.
    """

    slot: Slot
    axis: int
    positions: Indices
    role: Role | None
    layer: Node | None = None

    @property
    def value(self) -> Value:
        """The tensor."""
        return slot_value(self.slot)

    @property
    def extent(self) -> int:
        """Indices of the whole axis."""
        extent = self.value.shape[self.axis]
        assert isinstance(extent, int)
        return extent

    @property
    def parameters(self) -> int:
        """Elements of the constant that one channel of the group takes with it; 0 for values computed at run time."""
        data = self.value.data
        return 0 if data is None or isinstance(self.slot, Value) else data.size // self.extent * self.positions.shape[1]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that stand in the same axes, each to be kept or removed by itself.

    Attributes:
        index: position in ``PruneGroups.groups``.
        name: the layer that makes the channels (node name), or the tensor that holds them first.
        channels: int64 [channels]: their tokens.
        members: the axes.
    """

    index: int
    name: str
    channels: Indices
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.channels)

    @property
    def parameters(self) -> int:
        """Elements of constants that go with one channel."""
        return sum(m.parameters for m in self.members)

    @property
    def layers(self) -> tuple[Node, ...]:
        """Nodes whose weights have the group's channels as output or input channels, in graph order."""
        found = (m.layer for m in self.members if m.role in (Role.OUT, Role.IN))
        return tuple(dict.fromkeys(layer for layer in found if layer is not None))

    def of_role(self, role: Role) -> tuple[Member, ...]:
        """Members of constants with a role."""
        return tuple(m for m in self.members if m.role is role)


@dataclass(frozen=True)
class FrozenGroup:
    """Channels of layers that must stay, with the reason.

    Attributes:
        name: the layer that makes them.
        size: how many.
        reason: why none of them can go.
    """

    name: str
    size: int
    reason: str


@dataclass
class PruneGroups:
    """What can be removed from a graph, and what can't.

    Attributes:
        labelling: tokens of every axis, settled.
        groups: prunable ones, in graph order.
        frozen: output channels of layers that stay, with the reason.
    """

    labelling: Labelling
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenGroup, ...] = ()

    @property
    def graph(self) -> Graph:
        """The graph that was analysed."""
        return self.labelling.graph


def find_groups(graph: Graph) -> PruneGroups:
    """Analyse a graph; it is not changed. Takes time proportional to the sum of all extents of all tensors."""
    labelling = label(graph)
    return PruneGroups(labelling, *_families(labelling))


def label(graph: Graph) -> Labelling:
    """Walk over the nodes and put labels on every tensor; interface and control flow stay as they are."""
    labelling = Labelling(graph)
    for value in graph.inputs:
        labelling.stay(value, "they come from an input of the graph")
    for node in graph.nodes:
        context = RuleContext(labelling, node)
        rule = label_rule(node)
        if any(v is not None and shape_of(v) is None for v in (*node.inputs, *node.outputs)):
            rule = None
        if rule is None:
            context.refuse(f"there is no pruning rule for {node.label}")
        else:
            rule(context)
        for out in node.outputs:
            if out is not None:
                labelling.of(out)  # what the rule says nothing of stays
        for sub in node.subgraphs:
            _freeze_captured(labelling, sub, node)
    for value in graph.outputs:
        labelling.freeze_all(value, f"they leave the graph as output {value.name!r}")
    labelling.tokens.settle()
    if labelling.balances:
        bundle(labelling.tokens, labelling.balances)
        labelling.tokens.settle()
    return labelling


def _freeze_captured(labelling: Labelling, sub: Graph, holder: Node) -> None:
    inner = {id(v) for n in sub.walk() for v in n.outputs if v is not None} | {id(v) for v in sub.inputs}
    outside = [v for n in sub.walk() for v in n.inputs if v is not None and not v.is_const and id(v) not in inner]
    for value in (*outside, *(v for v in sub.outputs if not v.is_const and id(v) not in inner)):
        if value in labelling.slots:
            labelling.freeze_all(value, f"{holder.label} uses %{value.name} in a branch or body")


def _families(labelling: Labelling) -> tuple[tuple[ChannelGroup, ...], tuple[FrozenGroup, ...]]:
    """Group channels by the axes they stand in."""
    arrays: list[Labels] = []
    places: list[list[tuple[Slot, int]]] = []
    known: dict[int, int] = {}
    for slot, axes in labelling.slots.items():
        for axis, labels in enumerate(axes):
            if labels is not None:
                key = known.setdefault(id(labels), len(arrays))
                if key == len(arrays):
                    arrays.append(labels)
                    places.append([])
                places[key].append((slot, axis))
    families: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    where = _occurrences(labelling.tokens, arrays)
    for channel, (keys, _) in where.items():
        numbers, copied = np.unique(keys, return_counts=True)
        families[numbers.tobytes(), copied.tobytes()].append(channel)
    groups = []
    for (axes_of, copies_of), channels in families.items():
        table = np.stack([where[channel][1] for channel in channels])  # [channels, all copies]
        members, start = [], 0
        for key, copies in zip(np.frombuffer(axes_of, np.int64), np.frombuffer(copies_of, np.int64)):
            positions = table[:, start : start + copies]
            start += int(copies)
            members += [_member(labelling, slot, axis, positions) for slot, axis in places[key]]
        groups.append((channels, tuple(members)))
    order = {node: i for i, node in enumerate(labelling.graph.nodes)}
    groups = [g for g in groups if any(isinstance(m.slot, Use) and m.role in (Role.OUT, Role.IN) for m in g[1])]
    single = {g[0][0] for g in groups if len(g[0]) == 1}  # one of each kind stays
    groups = [g for g in groups if len(g[0]) > 1]
    groups.sort(key=lambda g: min(_first(m.slot, order) for m in g[1]))
    named = _names([_name_of(members) for _, members in groups])
    return (
        tuple(ChannelGroup(i, n, np.asarray(a, np.int64), m) for i, (n, (a, m)) in enumerate(zip(named, groups))),
        _frozen(labelling, single),
    )


def _member(labelling: Labelling, slot: Slot, axis: int, positions: Indices) -> Member:
    if isinstance(slot, Value):
        return Member(slot, axis, positions, None)
    return Member(slot, axis, positions, labelling.roles.get((slot, axis)), labelling.layers.get(slot))


def _occurrences(tokens: Tokens, arrays: list[Labels]) -> dict[int, tuple[Indices, Indices]]:
    """For every channel, in the order of first appearance: the arrays it stands in, ascending, and where in each."""
    if not arrays:
        return {}
    labels = tokens.roots(np.concatenate(arrays))
    keys = np.repeat(np.arange(len(arrays)), [len(a) for a in arrays])
    positions = np.concatenate([np.arange(len(a)) for a in arrays])
    roots, index = np.unique(labels, return_inverse=True)
    atoms = [tokens.atoms(root) for root in roots.tolist()]
    counts = np.asarray([len(a) for a in atoms], np.int64)
    flat = np.asarray([a for found in atoms for a in found], np.int64)
    starts = np.cumsum(counts) - counts
    copies = counts[index]
    source = np.repeat(np.arange(len(labels)), copies)  # one entry for each channel of each place
    nth = np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
    channels = flat[starts[index[source]] + nth]
    order = np.lexsort((source, channels))
    channels, source = channels[order], source[order]
    bounds = np.flatnonzero(np.diff(channels, prepend=-1))
    runs = sorted(zip(bounds.tolist(), [*bounds[1:].tolist(), len(channels)]), key=lambda run: int(source[run[0]]))
    return {int(channels[a]): (keys[source[a:b]], positions[source[a:b]]) for a, b in runs}


def _first(slot: Slot, order: dict[Node, int]) -> int:
    node = slot.node if isinstance(slot, Use) else slot.producer
    if node is not None and has_trait(node, AFFINE):
        return len(order)  # of weights, it may stand anywhere before their layer
    return -1 if node is None else order.get(node, -1)


def _name_of(members: Iterable[Member]) -> str:
    listed = list(members)
    for role in (Role.OUT, Role.IN):
        for member in listed:
            if member.role is role and member.layer is not None:
                return member.layer.name
    return listed[0].value.name


def _names(names: list[str]) -> list[str]:
    """The same names, numbered where one comes twice."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return out


def _frozen(labelling: Labelling, single: set[int]) -> tuple[FrozenGroup, ...]:
    """Output channels of layers that stay, one entry a layer and reason."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    for (use, axis), role in labelling.roles.items():
        labels = labelling.slots[use][axis]
        if role is not Role.OUT or labels is None:
            continue
        layer = labelling.layers[use]
        for token in labels.tolist():
            atoms = labelling.tokens.atoms(token)
            if not atoms:
                found[layer.name, labelling.tokens.reason(token) or "frozen"] += 1
            elif single.issuperset(atoms):
                found[layer.name, "nothing else is coupled like it, and one of each kind stays"] += 1
    return tuple(FrozenGroup(name, size, reason) for (name, reason), size in found.items())

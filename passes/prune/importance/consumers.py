"""What reads and what makes a group's channels, seen as matrices over the rows that calibration gathered moments of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Value
from graphopt.passes.prune.calibration.linear_layer import LinearLayer, linear
from graphopt.passes.prune.groups import ChannelGroup
from graphopt.passes.prune.importance.criterion import LayerMoments, Scores

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Part:
    """What one channel of the group is to one convolution group of a layer.

    Attributes:
        group: which of the layer's groups.
        columns: of its matrix: what multiplies the channel.
        gone: of its rows: results that vanish together with the channel.
    """

    group: int
    columns: Indices
    gone: Indices


@dataclass(frozen=True)
class Consumer:
    """A layer that sums over channels of the group.

    Attributes:
        layer: the layer.
        parts: by channel: where it enters.
    """

    layer: LinearLayer
    parts: Sequence[Sequence[Part]]

    @property
    def weights(self) -> Matrix:
        """[G, M, K]."""
        data = self.layer.w.data
        assert data is not None
        return self.layer.matrix(data)


def consumers(group: ChannelGroup, stats: LayerMoments) -> list[Consumer]:
    """Layers that calibration has seen and that lose inputs with a channel of the group, while some results stay."""
    found = []
    for layer, positions in _readers(group):
        if layer.weight in stats:
            width = channels_in(layer) // layer.groups
            results = _positions(group, layer.node.out, layer.out_axis)
            parts = [
                [
                    Part(
                        int(g),
                        _inner(positions[channel], int(g), width, layer.ins // width),
                        _NONE if results is None else _inner(results[channel], int(g), *_result_width(layer)),
                    )
                    for g in np.unique(positions[channel] // width)
                ]
                for channel in range(group.size)
            ]
            if any(len(part.gone) < layer.outs for of_channel in parts for part in of_channel):
                found.append(Consumer(layer, parts))
    return found


def produced(group: ChannelGroup, stats: LayerMoments) -> Scores:
    """Part that each channel has in the mean square of what its producing layers compute, without their biases.

    For channels that no layer reads, such as queries and keys of attention. Zeros where no producing layer was seen.
    """
    total = np.zeros(group.size)
    for member in group.members:
        node = member.slot.producer if isinstance(member.slot, Value) else None
        layer = linear(node) if node is not None and node.out is member.slot else None
        if layer is None or layer.weight not in stats or not _is_axis(layer.node.out, layer.out_axis, member.axis):
            continue
        assert layer.w.data is not None
        weights = layer.matrix(layer.w.data)
        gram, energy = grouped(layer, stats)
        if gram is None:
            rows = np.einsum("gmk,gk->gm", np.square(weights), energy)
        else:
            rows = np.einsum("gmk,gmk->gm", weights @ gram, weights)
        of_channel = rows.reshape(layer.channels_out, -1).sum(axis=1)
        if of_channel.sum() > 0:
            total += of_channel[member.positions].sum(axis=1) / of_channel.sum()
    return total


def channels_in(layer: LinearLayer) -> int:
    """Input channels of a layer."""
    extent = layer.x.shape[layer.in_axis]
    assert isinstance(extent, int)
    return extent


def grouped(layer: LinearLayer, stats: LayerMoments) -> tuple[Matrix | None, Matrix]:
    """Gram [G, K, K] (or None) and energy [G, K] of a layer."""
    gram = stats.gram(layer.weight)
    shape = (layer.groups, layer.ins)
    return (None if gram is None else gram.reshape(*shape, layer.ins)), stats.energy(layer.weight).reshape(shape)


def read_tensors(group: ChannelGroup, stats: LayerMoments) -> list[tuple[LinearLayer, Indices]]:
    """One layer for each tensor that some layer reads the group's channels of, with their positions in it."""
    found: dict[tuple[Value, int], tuple[LinearLayer, Indices]] = {}
    for layer, positions in _readers(group):
        if layer.weight in stats:
            found.setdefault((layer.x, layer.in_axis % len(layer.x.shape)), (layer, positions))
    return list(found.values())


def _readers(group: ChannelGroup) -> list[tuple[LinearLayer, Indices]]:
    """Layers that sum over an axis that holds channels of the group, with the channels' positions."""
    found: dict[LinearLayer, Indices] = {}
    for member in group.members:
        if isinstance(member.slot, Value):
            for use in member.slot.uses:
                layer = linear(use.node)
                if layer is not None and layer.data == use.index and _is_axis(member.slot, layer.in_axis, member.axis):
                    found[layer] = member.positions
    return list(found.items())


def _positions(group: ChannelGroup, value: Value, axis: int) -> Indices | None:
    for member in group.members:
        if member.slot is value and _is_axis(value, axis, member.axis):
            return member.positions
    return None


def _result_width(layer: LinearLayer) -> tuple[int, int]:
    """Output channels of one of the layer's groups, and rows of its matrix for each of them."""
    width = layer.channels_out // layer.groups
    return width, layer.outs // width


def _inner(positions: Indices, group: int, width: int, taps: int) -> Indices:
    """Indices within one of a layer's groups: ``taps`` for each of those positions that fall into it."""
    inner = positions[positions // width == group] % width
    indices: Indices = (inner[:, None] * taps + np.arange(taps)).ravel()
    return indices


def _is_axis(value: Value, axis: int, other: int) -> bool:
    return axis % len(value.shape) == other

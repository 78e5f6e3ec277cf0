"""Weights of a group, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Array, Use, Value
from graphopt.ops.context import attr
from graphopt.passes.prune.groups import ChannelGroup, Member
from graphopt.passes.prune.labels import Role

Matrix = npt.NDArray[np.float64]


def slices(member: Member) -> Matrix:
    """What each channel takes of a constant, float64 [channels, elements]."""
    data = _numbers(member)
    rows = np.moveaxis(data, member.axis, 0)[member.positions]
    return rows.reshape(len(member.positions), -1).astype(np.float64)


def judged_by(group: ChannelGroup) -> Sequence[Member]:
    """The constants whose size tells a channel's importance: weights of all layers that produce it, else of those that
    consume it, else its parameters."""
    for role in (Role.OUT, Role.IN, Role.PARAMETER):
        members = [m for m in group.of_role(role) if _is_numeric(m)]
        if members:
            return members
    return ()


def _is_numeric(member: Member) -> bool:
    return member.value.data is not None and (member.value.dtype.is_float or _is_dequantized(member))


def _is_dequantized(member: Member) -> bool:
    return isinstance(member.slot, Use) and member.slot.node.op == "DequantizeLinear" and member.slot.index == 0


def _numbers(member: Member) -> Array:
    """The constant; of integers before a DequantizeLinear, what they stand for, as far as scale and zero point are constants."""
    data = member.value.data
    assert data is not None
    if not _is_dequantized(member) or not isinstance(member.slot, Use):
        return data
    node = member.slot.node
    axis = int(attr(node, "axis")) % max(data.ndim, 1)

    def along(value: Value | None, default: float) -> Array:
        if value is None or value.data is None:
            return np.asarray(default)
        number: Array = value.data.astype(np.float64)
        return (
            number.reshape(())
            if number.size == 1
            else number.reshape([-1 if i == axis else 1 for i in range(data.ndim)])
        )

    return (data.astype(np.float64) - along(node.input(2), 0.0)) * along(node.input(1), 1.0)

"""Weights of a group, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graphopt.passes.prune.groups import ChannelGroup, Member
from graphopt.passes.prune.labels import Role

Matrix = npt.NDArray[np.float64]


def slices(member: Member) -> Matrix:
    """What each channel takes of a constant, float64 [channels, elements]."""
    data = member.value.data
    assert data is not None
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
    return member.value.data is not None and member.value.dtype.is_float

"""Operators whose data have channels on the last axis: between two transpositions they are those of ai.onnx."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir.graph import Value
from graphopt.ops.contrib.builder import Builder


def to_front(b: Builder, x: Value) -> Value:
    """Channels from the last axis to axis 1.

    Raises:
        ModelError: there is no axis besides batch and channels.
    """
    rank = spatial_rank(b, x) + 2
    return b.transposed(x, [0, rank - 1, *range(1, rank - 1)])


def to_back(b: Builder, x: Value) -> Value:
    """Channels from axis 1 to the last one."""
    rank = b.rank(x)
    return b.transposed(x, [0, *range(2, rank), 1])


def channels_first(b: Builder, x: Value, last: bool, compute: Callable[[Value], Value]) -> Value:
    """What ``compute`` makes of data with channels on axis 1, in the order of axes that the data came in."""
    if not last:
        return compute(x)
    return to_back(b, compute(to_front(b, x)))


def spatial_rank(b: Builder, x: Value) -> int:
    """How many axes there are besides batch and channels.

    Raises:
        ModelError: there are none.
    """
    rank = b.rank(x)
    if rank < 3:
        raise b.invalid(f"{b.node.op} takes data with a batch, channels and at least one more axis, not {x.type}")
    return rank - 2

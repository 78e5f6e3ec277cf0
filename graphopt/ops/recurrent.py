"""LSTM, GRU and RNN."""

from __future__ import annotations

from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANCHOR, register

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


@register("LSTM", "GRU", "RNN", traits=(ANCHOR,))
def _recurrent(c: InferContext) -> list[Type]:
    """X is [seq, batch, input] ([batch, seq, input] for layout 1), R is [directions, gates*hidden, hidden]."""
    x, r = c.shape(0), c.shape(2)
    if len(x) != 3 or len(r) != 3:
        raise c.invalid(f"{c.node.op} needs data and weights of rank 3, got {len(x)} and {len(r)}")
    direction = str(c.attr("direction") or "forward")
    if direction not in DIRECTIONS:
        raise c.invalid(f"direction {direction!r} is not defined")
    count = DIRECTIONS[direction]
    hidden = r[2]
    declared = c.attr("hidden_size")
    if declared:
        c.assume_equal(hidden, int(declared), "hidden_size and the recurrent weight's extent")
        hidden = int(declared)
    c.assume_equal(r[0], count, "directions and the recurrent weight's extent")
    dtype = c.dtype(0)
    y: Shape
    state: Shape
    if c.attr("layout"):
        batch, seq = x[0], x[1]
        y, state = (batch, seq, count, hidden), (batch, count, hidden)
    else:
        seq, batch = x[0], x[1]
        y, state = (seq, count, batch, hidden), (count, batch, hidden)
    return [TensorType(dtype, y), TensorType(dtype, state), TensorType(dtype, state)]

"""LSTM, GRU and RNN."""

from __future__ import annotations

from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANCHOR, RECURRENT, register

_CELLS = {"LSTM": (4, ("Sigmoid", "Tanh", "Tanh")), "GRU": (3, ("Sigmoid", "Tanh")), "RNN": (1, ("Tanh",))}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def gate_count(op: str) -> int:
    """How many gates a cell of a recurrent operator has."""
    return _CELLS[op][0]


def default_activations(op: str) -> tuple[str, ...]:
    """The activations of a recurrent operator's cell, for one direction."""
    return _CELLS[op][1]


@register("LSTM", "GRU", "RNN", traits=(ANCHOR, RECURRENT))
def _recurrent(c: InferContext) -> list[Type]:
    """X is [seq, batch, input] ([batch, seq, input] for layout 1), R is [directions, gates*hidden, hidden]."""
    x, w, r = c.shape(0), c.shape(1), c.shape(2)
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
    rows = gate_count(c.node.op) * hidden
    c.assume_equal(r[1], rows, "rows of the recurrent weight")
    c.assume_equal(w[0], count, "directions and the weight's extent")
    c.assume_equal(w[1], rows, "rows of the weight")
    c.assume_equal(w[2], x[2], "columns of the weight and the input's extent")
    if c.has(3):
        c.assume_equal(c.shape(3)[0], count, "directions and the bias's extent")
        c.assume_equal(c.shape(3)[1], 2 * rows, "length of the bias")
    dtype = c.dtype(0)
    y: Shape
    state: Shape
    if c.attr("layout"):
        batch, seq = x[0], x[1]
        y, state = (batch, seq, count, hidden), (batch, count, hidden)
    else:
        seq, batch = x[0], x[1]
        y, state = (seq, count, batch, hidden), (count, batch, hidden)
    if c.has(4):
        c.assume_equal(c.shape(4)[0], batch, "one sequence length for each sequence")
    for i, what in ((5, "initial state"), (6, "initial cell state")):
        for a, b in zip(c.shape(i), state) if c.has(i) else ():
            c.assume_equal(a, b, f"shape of the {what}")
    if c.has(7):
        c.assume_equal(c.shape(7)[0], count, "directions and the peepholes' extent")
        c.assume_equal(c.shape(7)[1], 3 * hidden, "length of the peepholes")
    return [TensorType(dtype, y), TensorType(dtype, state), TensorType(dtype, state)]

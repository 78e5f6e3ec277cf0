"""Recurrent layers: LSTM, GRU and RNN over a sequence, in one or two directions."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.lower.activations import NamedActivation
from graphopt.backends.specs.types import SINGLE, KernelTypes
from graphopt.backends.tensors.tensor import Expr
from graphopt.ops.recurrent import gate_count

UPDATE, RESET, CANDIDATE = range(3)
"""Gates of a GRU, as ONNX orders them."""
INPUT, OUTPUT, FORGET, CELL = range(4)
"""Gates of an LSTM, as ONNX orders them."""


@dataclass(frozen=True)
class RecurrentSpec:
    """One node.

    Attributes:
        op: LSTM, GRU or RNN.
        time, batch: extents, ints or symbolic.
        features, hidden: extents of an element of the sequence and of a state.
        reverse: of each direction, whether it starts at the end.
        functions: of each direction, the activations in the order of the attribute.
        clip: bound of what goes into the gates' activations, None for none.
        coupled: whether the forget gate of an LSTM is one minus the input gate.
        reset_after: whether a GRU's reset gate scales the product with the state instead of the state.
        batch_first: whether the batch comes before time, and before the direction in states.
        bias, lengths, peepholes: whether there are such operands.
        states: how many initial states are given: hidden, then cell.
        results: numbers of the node's results that are wanted.
        types: element types of data, weights, sums and result.
    """

    op: str
    time: Expr
    batch: Expr
    features: int
    hidden: int
    reverse: tuple[bool, ...]
    functions: tuple[tuple[NamedActivation, ...], ...]
    clip: float | None = None
    coupled: bool = False
    reset_after: bool = False
    batch_first: bool = False
    bias: bool = False
    lengths: bool = False
    peepholes: bool = False
    states: tuple[bool, bool] = (False, False)
    results: tuple[int, ...] = (0,)
    types: KernelTypes = SINGLE

    @property
    def directions(self) -> int:
        """One or two."""
        return len(self.reverse)

    @property
    def gates(self) -> int:
        """Gates of a cell."""
        return gate_count(self.op)

    @property
    def has_cell(self) -> bool:
        """Whether there is a second state."""
        return self.op == "LSTM"

    @property
    def passes(self) -> tuple[tuple[int, ...], ...]:
        """Gates that one pass over a state computes together; the second pass needs all that the first one gives."""
        if self.op == "GRU" and not self.reset_after:
            return (UPDATE, RESET), (CANDIDATE,)
        return (tuple(range(self.gates)),)

    @property
    def has_apart_bias(self) -> bool:
        """Whether the recurrent bias of a GRU's candidate stays inside of what the reset gate scales."""
        return self.bias and self.op == "GRU" and self.reset_after

    def sequence_shape(self, width: int) -> tuple[Expr, ...]:
        """Shape of the data."""
        return (self.batch, self.time, width) if self.batch_first else (self.time, self.batch, width)

    @property
    def state_shape(self) -> tuple[Expr, ...]:
        """Shape of a state, as operand and as result."""
        if self.batch_first:
            return (self.batch, self.directions, self.hidden)
        return (self.directions, self.batch, self.hidden)

    @property
    def history_shape(self) -> tuple[Expr, ...]:
        """Shape of the first result."""
        if self.batch_first:
            return (self.batch, self.time, self.directions, self.hidden)
        return (self.time, self.directions, self.batch, self.hidden)

"""The cells of recurrent layers: what happens to a vector of hidden units once the sums of its gates are in registers.

Formulas and the order of gates are those of ONNX's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import ON_STACK
from graphopt.backends.cpu.kernels.row import bound
from graphopt.backends.lower.activations import Activation, NamedActivation, clipped
from graphopt.backends.specs.recurrent import CANDIDATE, CELL, FORGET, INPUT, OUTPUT, RESET, UPDATE, RecurrentSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.tensor import Expr

Vector = Callable[[Expr], Expr]
"""A vector of hidden units: lane to element."""


@dataclass(frozen=True)
class States:
    """Scratch memory of a layer; rows are those of the batch, and reach to whole blocks of hidden units.

    Attributes:
        hidden: (2, directions, batch, units): what a step reads and what it writes, which take turns.
        cell: (directions, batch, units) of an LSTM.
        update, scaled: (directions, batch, units): a GRU's update gate and its state times the reset gate, on the way from its
            first pass to its second one.
        apart: (directions, 1, units): the bias that a GRU's reset gate scales too.
        peepholes: (directions, 3, units).
    """

    hidden: tirx.Buffer
    cell: tirx.Buffer | None = None
    update: tirx.Buffer | None = None
    scaled: tirx.Buffer | None = None
    apart: View | None = None
    peepholes: View | None = None


@dataclass(frozen=True)
class Place:
    """A vector of hidden units of one sequence at one step.

    Attributes:
        direction, row, unit: where it is, the unit being that of the first lane.
        now, then: halves of `States.hidden` that the step reads and writes.
        lanes: units.
        dtype: of sums.
        sums: of each gate of the pass, what the sequence and the product with the state add up to.
        projected: what the sequence alone gives for the candidate of a GRU whose reset gate comes after the product.
        functions: activations of the direction.
    """

    direction: Expr
    row: Expr
    unit: Expr
    now: Expr
    then: Expr
    lanes: int
    dtype: str
    sums: Sequence[Vector]
    projected: Vector
    functions: tuple[NamedActivation, ...]

    def vector(self, value: Vector) -> Vector:
        """Emits ``value`` into a register: TVM's simplifier takes exponential time on expressions with several activations."""
        register = T.alloc_buffer((self.lanes,), self.dtype, scope="local", annotations=ON_STACK)
        with T.vectorized(0, self.lanes) as lane:
            T.buffer_store(register, bound(lambda: value(lane)), [lane])
        return lambda lane: register[lane]

    def of(self, buffer: tirx.Buffer | View) -> Vector:
        """These units of a buffer of shape (directions, batch, units)."""
        return lambda lane: buffer[self.direction, self.row, self.unit + lane]

    def state(self, half: Expr, states: States) -> Vector:
        """These units of the hidden state."""
        return lambda lane: states.hidden[half, self.direction, self.row, self.unit + lane]

    def store(self, buffer: tirx.Buffer, value: Vector, *lead: Expr) -> None:
        """Emits the writing of ``value`` to these units of a buffer, whose first indices are ``lead``."""
        with T.vectorized(0, self.lanes) as lane:
            T.buffer_store(buffer, value(lane), [*lead, self.direction, self.row, self.unit + lane])


def finish_cell(spec: RecurrentSpec, which: int, place: Place, states: States) -> Vector | None:
    """Emits what follows the products of pass ``which``: states are written; returns the hidden state if it is complete."""
    clip = clipped(spec.clip)

    def activated(fn: Activation, value: Vector) -> Vector:
        return place.vector(lambda lane: fn(clip(value(lane))))

    if spec.op == "LSTM":
        new = _lstm(spec, place, states, activated)
    elif spec.op == "RNN":
        new = activated(place.functions[0], place.sums[0])
    elif spec.reset_after:
        new = _gru(place, states, activated)
    elif which == 0:
        _gru_gates(place, states, activated)
        return None
    else:
        new = _gru_candidate(place, states, activated)
    place.store(states.hidden, new, place.then)
    return new


_Activated = Callable[[Activation, Vector], Vector]


def _lstm(spec: RecurrentSpec, place: Place, states: States, activated: _Activated) -> Vector:
    assert states.cell is not None
    squash, candidate_fn, last = place.functions

    def gate(number: int, fn: Activation, seen: Vector | None = None) -> Vector:
        def value(lane: Expr) -> Expr:
            total = place.sums[number](lane)
            if seen is not None and states.peepholes is not None:
                total = total + states.peepholes[place.direction, number, place.unit + lane] * seen(lane)
            return total

        return activated(fn, value)

    old = place.vector(place.of(states.cell))
    entry, candidate = gate(INPUT, squash, old), gate(CELL, candidate_fn)
    forget = None if spec.coupled else gate(FORGET, squash, old)

    def new_cell(lane: Expr) -> Expr:
        kept = tirx.const(1, place.dtype) - entry(lane) if forget is None else forget(lane)
        return kept * old(lane) + entry(lane) * candidate(lane)

    made = place.vector(new_cell)
    place.store(states.cell, made)
    exposed, shown = gate(OUTPUT, squash, made), place.vector(lambda lane: last(made(lane)))
    return place.vector(lambda lane: exposed(lane) * shown(lane))


def _mixed(place: Place, states: States, update: Vector, candidate: Vector) -> Vector:
    old = place.state(place.now, states)

    def value(lane: Expr) -> Expr:
        return (tirx.const(1, place.dtype) - update(lane)) * candidate(lane) + update(lane) * old(lane)

    return place.vector(value)


def _gru(place: Place, states: States, activated: _Activated) -> Vector:
    squash, candidate_fn = place.functions
    reset, update = activated(squash, place.sums[RESET]), activated(squash, place.sums[UPDATE])
    inner = place.sums[CANDIDATE]
    candidate = activated(candidate_fn, lambda lane: place.projected(lane) + reset(lane) * inner(lane))
    return _mixed(place, states, update, candidate)


def _gru_gates(place: Place, states: States, activated: _Activated) -> None:
    assert states.update is not None
    assert states.scaled is not None
    squash = place.functions[0]
    reset, update = activated(squash, place.sums[RESET]), activated(squash, place.sums[UPDATE])
    old = place.state(place.now, states)
    place.store(states.update, update)
    place.store(states.scaled, lambda lane: reset(lane) * old(lane))


def _gru_candidate(place: Place, states: States, activated: _Activated) -> Vector:
    assert states.update is not None
    candidate = activated(place.functions[1], place.sums[0])
    return _mixed(place, states, place.of(states.update), candidate)

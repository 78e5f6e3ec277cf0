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
        sums: of each gate of the pass, what the sequence and the product with the state add up to, later what becomes of it.
        at: of each gate, the vector's place in ``sums`` before the lane.
        projected: what the sequence alone gives for the candidate of a GRU whose reset gate comes after the product.
    """

    direction: Expr
    row: Expr
    unit: Expr
    now: Expr
    then: Expr
    lanes: int
    sums: tirx.Buffer
    at: Callable[[int], tuple[Expr, ...]]
    projected: Vector

    def gate(self, number: int) -> Vector:
        """What is kept of a gate."""
        return lambda lane: tirx.BufferLoad(self.sums, [*self.at(number), lane])

    def keep(self, number: int, value: Vector) -> None:
        """Emits the writing of what is kept of a gate."""
        with T.vectorized(0, self.lanes) as lane:
            T.buffer_store(self.sums, bound(lambda: value(lane)), [*self.at(number), lane])

    def vector(self, value: Vector) -> Vector:
        """Emits ``value`` into a register: TVM's simplifier takes exponential time on expressions with several activations."""
        dtype = str(self.sums.dtype)
        register = T.alloc_buffer((self.lanes,), dtype, scope="local", annotations=ON_STACK)
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
            T.buffer_store(buffer, bound(lambda: value(lane)), [*lead, self.direction, self.row, self.unit + lane])


Stage = Callable[[Place], "Vector | None"]
"""Emits a part of what follows the products for one place; returns the new hidden state if that is complete."""


def cell_stages(
    spec: RecurrentSpec, which: int, states: States, functions: tuple[NamedActivation, ...]
) -> Sequence[Stage]:
    """What follows the products of pass ``which``, in parts.

    Each part goes over all vectors of a tile before the next one does: their chains of operations don't wait for one another, and
    processors look ahead only some hundred instructions.
    """
    cell = _Cell(spec, states, functions)
    if spec.op == "LSTM":
        return cell.lstm()
    if spec.op == "RNN":
        return [cell.rnn]
    if spec.reset_after:
        return [cell.reset, cell.update, cell.candidate_after, cell.mixed]
    return [cell.scaled_state, cell.kept_update] if which == 0 else [cell.candidate, cell.mixed]


@dataclass(frozen=True)
class _Cell:
    """The parts of the three cells.

    Attributes:
        spec, states: the layer.
        functions: activations of the direction.
    """

    spec: RecurrentSpec
    states: States
    functions: tuple[NamedActivation, ...]

    def activated(self, number: int, value: Vector) -> Vector:
        """Activation number so and so of ``value``, which is clipped first."""
        fn: Activation = self.functions[number]
        clip = clipped(self.spec.clip)
        return lambda lane: fn(clip(value(lane)))

    def rnn(self, place: Place) -> Vector:
        """The state is the activation of the sum."""
        return place.vector(self.activated(0, place.gate(0)))

    def lstm(self) -> Sequence[Stage]:
        """Gates, of which the output gate may see the new cell, then states."""
        assert self.states.cell is not None
        cell = self.states.cell
        seen = self.states.peepholes

        def gate(number: int) -> Stage:
            def stage(place: Place) -> None:
                old = None if number == CELL else place.vector(place.of(cell))
                place.keep(number, self.activated(int(number == CELL), self._seeing(place, number, old)))

            return stage

        def end(place: Place) -> Vector:
            old = place.of(cell)
            entry, candidate = place.gate(INPUT), place.gate(CELL)
            one = tirx.const(1, str(place.sums.dtype))

            def new(lane: Expr) -> Expr:
                kept = one - entry(lane) if self.spec.coupled else place.gate(FORGET)(lane)
                return kept * old(lane) + entry(lane) * candidate(lane)

            made = place.vector(new)
            place.store(cell, made)
            exposed = place.gate(OUTPUT)
            if seen is not None:
                exposed = place.vector(self.activated(0, self._seeing(place, OUTPUT, made)))
            last = self.functions[2]
            shown = place.vector(lambda lane: last(made(lane)))
            return place.vector(lambda lane: exposed(lane) * shown(lane))

        early = [INPUT, CELL]
        early += [] if self.spec.coupled else [FORGET]
        early += [] if seen is not None else [OUTPUT]
        return [*map(gate, early), end]

    def _seeing(self, place: Place, number: int, cell: Vector | None) -> Vector:
        """The sum of a gate with what its peephole shows it."""
        peepholes, total = self.states.peepholes, place.gate(number)
        if peepholes is None or cell is None:
            return total
        return lambda lane: total(lane) + peepholes[place.direction, number, place.unit + lane] * cell(lane)

    def reset(self, place: Place) -> None:
        """A GRU's reset gate."""
        place.keep(RESET, self.activated(0, place.gate(RESET)))

    def update(self, place: Place) -> None:
        """A GRU's update gate."""
        place.keep(UPDATE, self.activated(0, place.gate(UPDATE)))

    def candidate_after(self, place: Place) -> None:
        """The candidate of a GRU whose reset gate comes after the product."""
        reset, inner = place.gate(RESET), place.gate(CANDIDATE)
        place.keep(CANDIDATE, self.activated(1, lambda lane: place.projected(lane) + reset(lane) * inner(lane)))

    def scaled_state(self, place: Place) -> None:
        """What the second pass of a GRU multiplies: the state times the reset gate."""
        assert self.states.scaled is not None
        old, reset = place.state(place.now, self.states), place.vector(self.activated(0, place.gate(RESET)))
        place.store(self.states.scaled, lambda lane: reset(lane) * old(lane))

    def kept_update(self, place: Place) -> None:
        """A GRU's update gate, for the second pass."""
        assert self.states.update is not None
        place.store(self.states.update, self.activated(0, place.gate(UPDATE)))

    def candidate(self, place: Place) -> None:
        """The candidate of a GRU's second pass."""
        place.keep(0, self.activated(1, place.gate(0)))

    def mixed(self, place: Place) -> Vector:
        """A GRU's new state, between the candidate and the old one."""
        apart = self.states.update
        update = place.gate(UPDATE) if apart is None else place.of(apart)
        candidate = place.gate(CANDIDATE if apart is None else 0)
        old, one = place.state(place.now, self.states), tirx.const(1, str(place.sums.dtype))
        return place.vector(lambda lane: (one - update(lane)) * candidate(lane) + update(lane) * old(lane))

"""One step of a recurrent layer for a block of hidden units: the product with the state, and gates while sums are in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.prefetch import LINE_BYTES, prefetch
from graphopt.backends.cpu.kernels.recurrent_cells import Place, Stage, States, Vector, cell_stages
from graphopt.backends.cpu.kernels.recurrent_packing import GateBlocks
from graphopt.backends.cpu.kernels.register_tile import ON_STACK, RegisterTile
from graphopt.backends.lower.activations import NamedActivation
from graphopt.backends.specs.recurrent import CANDIDATE, RecurrentSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.tensor import Expr

_MOST_CHAINS = 4
_INLINE_VECTORS = 2
"""Vectors of hidden units of a tile up to which gates are computed from the registers, without a trip through memory."""


@dataclass(frozen=True)
class PassConfig:
    """How one pass over a state is cut.

    Attributes:
        units: vectors of hidden units in a block.
        rows: sequences of the batch in a register tile.
        vectors: vectors of gates in a register tile, a divisor of those of a block.
        chains: parts of a sum that don't wait for one another.
        by_lane: elements of a state that come with one load, for multiply-adds by lane; 1 for one at a time.
    """

    units: int
    rows: int
    vectors: int
    chains: int
    by_lane: int = 1


class GateTile(RegisterTile):
    """The sums of some rows of the batch, each of them in several parts that don't wait for one another."""

    def __init__(self, rows: int, vectors: int, lanes: int, dtype: str, chains: int) -> None:
        super().__init__(rows * chains, vectors, lanes, dtype)
        self.rows, self.chains = rows, chains

    def begin(self, vector: int, value: Callable[[Expr, Expr], Expr]) -> None:
        """Emits the first values of a vector of every row: ``value(row, lane)``."""
        zero = tirx.const(0, self.dtype)
        with T.unroll(0, self.rows) as p, T.vectorized(0, self.lanes) as lane:
            T.buffer_store(self._registers, value(p, lane), [p, vector, lane])
        if self.chains > 1:
            with T.unroll(self.rows, self.points) as p, T.vectorized(0, self.lanes) as lane:
                T.buffer_store(self._registers, zero, [p, vector, lane])

    def multiply(
        self,
        steps: int,
        state: Callable[[Expr, Expr], Expr],
        weight: Callable[[Expr, Expr], Expr],
        by_lane: int = 1,
    ) -> None:
        """Emits the products of ``state(row, k)`` and ``weight(k, column)`` for all steps, and the sum of the parts.

        Args:
            steps: how many there are.
            state: the factor of a row.
            weight: the factor of a column.
            by_lane: steps whose factors of a row come with one load.
        """

        def step(k: Expr, chain: int) -> None:
            first = chain * self.rows
            self.multiply_add(
                lambda p: state(p - first, k), lambda column: weight(k, column), (first, first + self.rows)
            )

        def step_by_lane(factors: tirx.Buffer, s: int, k: Expr) -> None:
            first = s % self.chains * self.rows
            self.multiply_add(
                lambda p: factors[p - first, s],
                lambda column: weight(k, column),
                (first, first + self.rows),
                by_lane=True,
            )

        whole, rest = divmod(steps, by_lane if by_lane > 1 else self.chains)
        with T.serial(0, whole) as i:
            if by_lane > 1:
                start = i * by_lane
                factors = self.factors(lambda p, s: state(p, start + s), by_lane, self.rows)
                for s in range(by_lane):
                    step_by_lane(factors, s, start + s)
            else:
                for chain in range(self.chains):
                    step(i * self.chains + chain, chain)
        for k in range(steps - rest, steps):
            step(k, k % self.chains if by_lane == 1 else 0)
        for chain in range(1, self.chains):
            with T.unroll(0, self.rows) as p, T.unroll(0, self.vectors) as v, T.vectorized(0, self.lanes) as lane:
                total = self._registers[p, v, lane] + self._registers[p + chain * self.rows, v, lane]
                T.buffer_store(self._registers, total, [p, v, lane])

    def kept(self, into: tirx.Buffer | None, first: int) -> tirx.Buffer:
        """Where the sums are, (row, vector, lane): the registers, or a copy that it emits.

        Args:
            into: memory for the copy; None for the registers.
            first: number of the first vector.
        """
        if into is None:
            return self._registers
        with T.unroll(0, self.rows) as p, T.unroll(0, self.vectors) as v, T.vectorized(0, self.lanes) as lane:
            T.buffer_store(into, self._registers[p, v, lane], [p, first + v, lane])
        return into


@dataclass(frozen=True)
class Layer:
    """A layer's operands and scratch memory, and how a pass is cut.

    Attributes:
        spec: the problem.
        lanes: hidden units in a vector.
        inputs: (directions, elements of the sequences, columns): what comes of the sequence; of one direction at a time if there
            is but one.
        weights: of each pass, (directions * panels, hidden, columns of a tile).
        blocks: the columns of each pass.
        cuts: of each pass, its tiles.
        states: scratch memory.
        lengths: of each sequence of the batch; None if all last to the end.
        history: the first result, if it is wanted.
    """

    spec: RecurrentSpec
    lanes: int
    inputs: View
    weights: list[View]
    blocks: tuple[GateBlocks, ...]
    cuts: tuple[PassConfig, ...]
    states: States
    lengths: View | None
    history: View | None

    def place(self, direction: Expr) -> Expr:
        """Where what comes of the sequence lies for a direction."""
        return i64(0) if self.inputs.shape[0] == 1 else direction

    def step(self, which: int, direction: Expr, s: Expr, block: Expr, following: Expr, first: Expr, rows: int) -> None:
        """Emits pass ``which`` of step ``s`` for a block of hidden units and ``rows`` sequences from ``first`` on.

        Args:
            which: number of the pass.
            direction: which direction.
            s: the step.
            block: the hidden units.
            following: the block that comes next, or anything at the end of a step.
            first: number of the first sequence.
            rows: how many there are.
        """
        spec, lanes, blocks, cut = self.spec, self.lanes, self.blocks[which], self.cuts[which]
        units, gates = blocks.width // lanes, blocks.gates
        dtype = spec.types.sum
        now = tirx.bitwise_and(s, 1)
        then = 1 - now
        places = T.alloc_buffer((rows,), "int64", scope="local", annotations=ON_STACK)
        with T.unroll(0, rows) as p:
            T.buffer_store(places, self._position(direction, s, first + p), [p])

        def element(p: Expr) -> Expr:
            row = first + p
            return row * spec.time + places[p] if spec.batch_first else places[p] * spec.batch + row

        def projected(p: Expr, gate: int, unit: Expr) -> Vector:
            column = blocks.first + block * blocks.columns + gate * blocks.width + unit * lanes
            return lambda lane: self.inputs[self.place(direction), element(p), column + lane]

        line = LINE_BYTES // self.inputs.type.bytes
        with T.unroll(0, rows) as p, T.unroll(0, -(-blocks.columns // line)) as i:
            prefetch(
                self.inputs, (self.place(direction), element(p), blocks.first + following * blocks.columns + i * line)
            )

        def begin(vector: int) -> Callable[[Expr, Expr], Expr]:
            g, u = divmod(vector, units)
            apart = self._start(gates[g], direction, block * blocks.width + u * lanes)
            return apart or (lambda p, lane: projected(p, g, u)(lane))

        scaled, hidden = self.states.scaled if which else None, self.states.hidden

        def state(p: Expr, k: Expr) -> Expr:
            return scaled[direction, first + p, k] if scaled is not None else hidden[now, direction, first + p, k]

        # a tile of few rows has the registers for more parts, and needs them
        chains = max(cut.chains, min(_MOST_CHAINS, cut.rows * cut.chains // rows))
        tiles, weight = blocks.columns // (cut.vectors * lanes), self.weights[which]
        inline = tiles == 1 and rows * units <= _INLINE_VECTORS
        memory = None
        if not inline:
            shape = (rows, len(gates) * units, lanes)
            memory = T.alloc_buffer(shape, dtype, scope="local", annotations=ON_STACK)
        for number in range(tiles):
            tile = GateTile(rows, cut.vectors, lanes, dtype, chains)
            for v in range(cut.vectors):
                tile.begin(v, begin(number * cut.vectors + v))
            panel = (direction * blocks.blocks + block) * tiles + number
            tile.multiply(spec.hidden, state, lambda k, column, panel=panel: weight[panel, k, column], cut.by_lane)  # type: ignore[misc]
            sums = tile.kept(memory, number * cut.vectors)

        def each(body: Callable[[Place, Expr], None]) -> None:
            def at(p: Expr, u: Expr) -> None:
                place = Place(
                    direction, first + p, block * blocks.width + u * lanes, now, then, lanes, sums,
                    lambda g: (p, g * units + u), projected(p, len(gates) - 1, u),
                )  # fmt: skip
                body(place, places[p])

            if inline:
                for p in range(rows):
                    for u in range(units):
                        at(p, u)
                return
            with T.serial(0, rows) as row, T.serial(0, units) as unit:
                at(row, unit)

        self._finish(which, direction, s, each)

    def _start(self, gate: int, direction: Expr, unit: Expr) -> Callable[[Expr, Expr], Expr] | None:
        """What a gate's sums begin with; None for what comes of the sequence."""
        if not (self.spec.op == "GRU" and self.spec.reset_after and gate == CANDIDATE):
            return None
        apart = self.states.apart
        if apart is None:
            return lambda p, lane: tirx.const(0, self.spec.types.sum)
        return lambda p, lane: apart[direction, 0, unit + lane]

    def _position(self, direction: Expr, s: Expr, row: Expr) -> Expr:
        """Which element of the sequence step ``s`` handles; a reversed one starts at the sequence's own end."""
        reverse, s = self.spec.reverse, i64(s)
        if not any(reverse):
            return s
        last = i64(self.spec.time) if self.lengths is None else self.length(row)
        backwards = last - 1 - s
        if self.lengths is not None:
            backwards = tirx.Select(s < last, backwards, s)
        return backwards if all(reverse) else tirx.Select(direction < 1, s, backwards)

    def length(self, row: Expr) -> Expr:
        """The length of a sequence, as far as there are data."""
        assert self.lengths is not None
        return tirx.max(tirx.min(i64(self.lengths[row]), i64(self.spec.time)), i64(0))

    def _finish(
        self, which: int, direction: Expr, s: Expr, each: Callable[[Callable[[Place, Expr], None]], None]
    ) -> None:
        """Emits what follows the products, for all that ``each`` goes over: places, and elements of the sequence."""
        first, *others = dict.fromkeys(self.spec.functions)

        def stages(functions: tuple[NamedActivation, ...]) -> None:
            for stage in cell_stages(self.spec, which, self.states, functions):
                each(lambda place, position, stage=stage: self._stage(stage, which, place, s, position))  # type: ignore[misc]

        if not others:
            stages(first)
            return
        with T.If(direction < 1):
            with T.Then():
                stages(first)
            with T.Else():
                stages(others[0])

    def _stage(self, stage: Stage, which: int, place: Place, s: Expr, position: Expr) -> None:
        def new_state() -> None:
            new = stage(place)
            if new is not None:
                place.store(self.states.hidden, new, place.then)
                self._write(place, new, position)

        if self.lengths is None or which < len(self.blocks) - 1:
            new_state()
            return
        with T.If(i64(s) < self.length(place.row)):
            with T.Then():
                new_state()
            with T.Else():  # a sequence that has ended keeps its state
                place.store(self.states.hidden, place.state(place.now, self.states), place.then)
                self._write(place, lambda lane: tirx.const(0, self.spec.types.sum), position)

    def _write(self, place: Place, value: Vector, position: Expr) -> None:
        """Emits the writing of a vector to the result, without the units that there aren't."""
        history, hidden = self.history, self.spec.hidden
        if history is None:
            return

        def index(unit: Expr) -> list[Expr]:
            lead = (
                (place.row, position, place.direction)
                if self.spec.batch_first
                else (position, place.direction, place.row)
            )
            return [*lead, unit]

        def whole() -> None:
            with T.vectorized(0, place.lanes) as lane:
                history.store(value(lane), index(place.unit + lane))

        if hidden % self.blocks[-1].width == 0:
            whole()
            return
        with T.If(place.unit + place.lanes <= hidden):
            with T.Then():
                whole()
            with T.Else(), T.serial(0, tirx.max(hidden - place.unit, 0)) as lane:
                history.store(value(lane), index(place.unit + lane))

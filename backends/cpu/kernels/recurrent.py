"""LSTM, GRU and RNN: one product for what comes of the whole sequence, then a loop over time whose weights stay in caches.

The loop over time is where recurrent layers spend their time, and for a batch of one it reads every recurrent weight once a step.
So weights are packed in the order in which they are read (`recurrent_packing`), each block of hidden units gets all of its gates
from one pass over the state (`recurrent_step`), and every other step takes the blocks from the back, where caches still hold the
ones that the step before used last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.backends.base.element_type import ElementType, element_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.matmul_tile import MatmulConfig
from graphopt.backends.cpu.kernels.recurrent_cells import States
from graphopt.backends.cpu.kernels.recurrent_input import Projection
from graphopt.backends.cpu.kernels.recurrent_packing import GateBias, GateBlocks, GatePacking, UnitRows
from graphopt.backends.cpu.kernels.recurrent_step import Layer, PassConfig
from graphopt.backends.cpu.kernels.register_tile import bind, bind_segments, for_each_tile, tile_count
from graphopt.backends.cpu.kernels.task_loops import share
from graphopt.backends.cpu.kernels.tiling import split_balanced, split_symbolic
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.recurrent import CANDIDATE, RecurrentSpec
from graphopt.backends.templates.operand import Parameter, View
from graphopt.backends.templates.prim_func import build_function
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dtypes import DType


@dataclass(frozen=True)
class RecurrentConfig:
    """How to compute a layer.

    Attributes:
        lanes: hidden units in a vector.
        passes: of each pass.
        product: tiles of the product with the sequence.
        shares: parts of the batch that go through the sequence on their own, as directions do; threads take them.
        parts: parts of all hidden units that threads take at every step, instead; 0 for none.
        parallel: whether directions and parts of the batch are worth more than one thread.
    """

    lanes: int
    passes: tuple[PassConfig, ...]
    product: MatmulConfig
    shares: int = 1
    parts: int = 0
    parallel: bool = False

    def is_apart(self, spec: RecurrentSpec) -> bool:
        """Whether a direction's product with the sequence is the work of the task that goes through the sequence."""
        return spec.directions > 1 and self.shares == 1 and not self.parts

    def sums(self, spec: RecurrentSpec) -> int:
        """Directions whose products with the sequence are in memory at a time: those of one thread take turns."""
        return 1 if self.is_apart(spec) and not self.parallel else spec.directions


@dataclass(frozen=True)
class RecurrentLayout:
    """Where the gates of a layer lie, and the packings that put them there.

    Attributes:
        spec: the problem.
        config: how it is computed.
    """

    spec: RecurrentSpec
    config: RecurrentConfig

    @property
    def blocks(self) -> tuple[GateBlocks, ...]:
        """The columns of each pass."""
        found: list[GateBlocks] = []
        for gates, config in zip(self.spec.passes, self.config.passes):
            width = config.units * self.config.lanes
            found.append(GateBlocks(gates, width, -(-self.spec.hidden // width), found[-1].end if found else 0))
        return tuple(found)

    @property
    def units(self) -> int:
        """Hidden units up to the end of the last block."""
        return max(b.blocks * b.width for b in self.blocks)

    @property
    def _weight_shape(self) -> tuple[int, int]:
        return self.spec.directions, self.spec.gates * self.spec.hidden

    @property
    def input_weight(self) -> GatePacking:
        """Of the weights of the sequence."""
        shape = (*self._weight_shape, self.spec.features)
        return GatePacking(shape, self.spec.hidden, self.blocks, self.config.product.columns)

    def recurrent_weight(self, which: int) -> GatePacking:
        """Of the weights of the state that pass ``which`` reads."""
        blocks, width = self.blocks[which], self.config.passes[which].vectors * self.config.lanes
        return GatePacking((*self._weight_shape, self.spec.hidden), self.spec.hidden, (blocks,), width)

    @property
    def bias(self) -> GateBias:
        """What is added to the product with the sequence."""
        columns = self.input_weight.panels * self.config.product.columns
        apart = CANDIDATE if self.spec.has_apart_bias else -1
        return GateBias(self.spec.directions, self.spec.hidden, self.blocks, columns, apart)

    @property
    def apart_bias(self) -> UnitRows:
        """The bias that a GRU's reset gate scales."""
        shape = (self.spec.directions, 2 * self.spec.gates * self.spec.hidden)
        last = self.spec.gates + CANDIDATE
        return UnitRows(shape, self.spec.hidden, (last, last + 1), self.units)

    @property
    def peepholes(self) -> UnitRows:
        """The weights of an LSTM's peepholes."""
        return UnitRows((self.spec.directions, 3 * self.spec.hidden), self.spec.hidden, (0, 3), self.units)


def emit(
    spec: RecurrentSpec,
    config: RecurrentConfig,
    name: str = "recurrent",
    check_lengths: Callable[[View], None] | None = None,
) -> tirx.PrimFunc:
    """Emits ``name(x, w, r of each pass, bias, apart, lengths, h0, c0, peepholes, *results)``; absent operands are left out.

    Args:
        spec: the problem.
        config: the tiles; constants must be packed with the same (`RecurrentLayout`).
        name: global symbol of the function.
        check_lengths: emits what refuses wrong lengths of sequences.
    """
    layout = RecurrentLayout(spec, config)
    blocks = layout.blocks
    types = spec.types
    integer = element_type(DType.i32)
    inputs: dict[str, Parameter] = {"x": ("x", spec.sequence_shape(spec.features), types.input)}

    def operand(label: str, shape: Sequence[Expr], type_: ElementType, wanted: bool = True) -> None:
        if wanted:
            inputs[label] = (label, shape, type_)

    operand("w", layout.input_weight.packed_shape, types.weight)
    for i in range(len(blocks)):
        operand(f"r{i}", layout.recurrent_weight(i).packed_shape, types.weight)
    operand("bias", layout.bias.shape, types.accumulator, spec.bias)
    operand("apart", layout.apart_bias.packed_shape, types.weight, spec.has_apart_bias)
    operand("lengths", (spec.batch,), integer, spec.lengths)
    for label, given in zip(("h0", "c0"), spec.states):
        operand(label, spec.state_shape, types.input, given)
    operand("peepholes", layout.peepholes.packed_shape, types.weight, spec.peepholes)
    outputs = [(f"y{i}", spec.history_shape if i == 0 else spec.state_shape, types.output) for i in spec.results]

    def body(given: list[View], results: list[View]) -> None:
        views = dict(zip(inputs, given))
        found = dict(zip(spec.results, results))
        if check_lengths is not None and "lengths" in views:
            check_lengths(views["lengths"])
        elements = bind(spec.time * spec.batch)
        columns = layout.input_weight.panels * config.product.columns
        product = Projection(
            MatmulSpec(elements, columns, spec.features, types), config.product,
            views["x"].reshaped((elements, spec.features)), views["w"], views.get("bias"),
        )  # fmt: skip
        sums = T.alloc_buffer((config.sums(spec), elements, columns), types.sum)
        run = _Run(layout, _layer(layout, sums, views, found.get(0)), views, found)
        if config.is_apart(spec):
            run.on_their_own(lambda place, direction: product.of_one(sums, place, direction))
            return
        product.of_all(sums, spec.directions)
        if config.parts:
            run.step_by_step()
        else:
            run.on_their_own()

    return build_function(name, list(inputs.values()), outputs, body)


def _layer(layout: RecurrentLayout, sums: tirx.Buffer, views: dict[str, View], history: View | None) -> Layer:
    """Emits the scratch memory of the loop over time."""
    spec, config = layout.spec, layout.config
    shape = (spec.directions, spec.batch, layout.units)

    def scratch(wanted: bool) -> tirx.Buffer | None:
        return T.alloc_buffer(shape, spec.types.sum) if wanted else None

    two = len(layout.blocks) > 1
    states = States(
        T.alloc_buffer((2, *shape), spec.types.sum), scratch(spec.has_cell), scratch(two), scratch(two), views.get("apart"),
        views.get("peepholes"),
    )  # fmt: skip
    return Layer(
        spec, config.lanes, View(sums, spec.types.accumulator), [views[f"r{i}"] for i in range(len(layout.blocks))], layout.blocks,
        config.passes, states, views.get("lengths"), history,
    )  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """The loop over time of all directions.

    Attributes:
        layout, layer: the problem and its memory.
        views: operands by name.
        results: the wanted results by number.
    """

    layout: RecurrentLayout
    layer: Layer
    views: dict[str, View]
    results: dict[int, View]

    def on_their_own(self, project: Callable[[Expr, Expr], None] | None = None) -> None:
        """Emits a task for each direction and part of the batch.

        Args:
            project: emits a direction's product with the sequence into a place of the sums; None where that is done already.
        """
        spec, shares = self.layout.spec, self.layout.config.shares
        loop = T.parallel if self.layout.config.parallel and spec.directions * shares > 1 else T.serial
        with loop(0, spec.directions * shares) as task:
            direction, part = tirx.floordiv(task, shares), tirx.floormod(task, shares)
            rows = share(part, spec.batch, shares)
            if project is not None:
                project(self.layer.place(direction), direction)
            self._begin(direction, rows)
            with T.serial(0, spec.time) as s:
                for which, blocks in enumerate(self.layout.blocks):
                    with T.serial(0, blocks.blocks) as i:
                        self._block(which, direction, s, self._turned(s, i, blocks.blocks), rows)
            self._end(direction, rows)

    def step_by_step(self) -> None:
        """Emits steps of all directions, each of them shared out by hidden units."""
        spec, parts = self.layout.spec, self.layout.config.parts
        rows = (0, spec.batch)
        with T.serial(0, spec.directions) as direction:
            self._begin(direction, rows)
        with T.serial(0, spec.time) as s:
            for which, blocks in enumerate(self.layout.blocks):
                with T.parallel(0, parts) as part:
                    first, count = share(part, spec.directions * blocks.blocks, parts)
                    with T.serial(0, count) as i:
                        at = first + self._turned(s, i, count)
                        direction, block = tirx.floordiv(at, blocks.blocks), tirx.floormod(at, blocks.blocks)
                        self._block(which, direction, s, block, rows)
        with T.serial(0, spec.directions) as direction:
            self._end(direction, rows)

    def _turned(self, s: Expr, i: Expr, count: Expr) -> Expr:
        """Iteration ``i`` of a loop that goes to and fro, step by step."""
        return tirx.Select(tirx.bitwise_and(s, 1) < 1, i, count - 1 - i)

    def _block(self, which: int, direction: Expr, s: Expr, block: Expr, rows: tuple[Expr, Expr]) -> None:
        """Emits a pass of a step for a block of hidden units and some sequences, tile by tile."""
        first, count = rows
        tile = self.layout.config.passes[which].rows
        cut = split_balanced(count, tile) if isinstance(count, int) else split_symbolic(count, tile)
        segments = bind_segments(cut)
        block = bind(block)
        following = block + tirx.Select(tirx.bitwise_and(s, 1) < 1, i64(1), i64(-1))
        with T.serial(0, tile_count(segments)) as i:
            for_each_tile(
                i, segments,
                lambda row, segment: self.layer.step(
                    which, direction, s, block, following, bind(first + row), segment.tile
                ),
            )  # fmt: skip

    def _begin(self, direction: Expr, rows: tuple[Expr, Expr]) -> None:
        """Emits the initial states of some sequences."""
        spec, states, lanes = self.layout.spec, self.layer.states, self.layout.config.lanes
        first, count = rows
        for buffer, lead, label in ((states.hidden, (0,), "h0"), (states.cell, (), "c0")):
            if buffer is None:
                continue
            given = self.views.get(label)
            with T.serial(0, count) as i:
                row = first + i
                with T.serial(0, self.layout.units // lanes) as v, T.vectorized(0, lanes) as lane:
                    zero = tirx.const(0, spec.types.sum)
                    T.buffer_store(buffer, zero, [*lead, direction, row, v * lanes + lane])
                if given is not None:
                    with T.serial(0, spec.hidden) as h:
                        T.buffer_store(buffer, given[self._state(direction, row, h)], [*lead, direction, row, h])

    def _end(self, direction: Expr, rows: tuple[Expr, Expr]) -> None:
        """Emits the copies of the last states of some sequences."""
        spec, states = self.layout.spec, self.layer.states
        first, count = rows
        last = tirx.bitwise_and(spec.time, 1)
        for number, buffer, lead in ((1, states.hidden, (last,)), (2, states.cell, ())):
            if number not in self.results or buffer is None:
                continue
            with T.serial(0, count) as i, T.serial(0, spec.hidden) as h:
                row = first + i
                value = tirx.BufferLoad(buffer, [*lead, direction, row, h])
                self.results[number].store(value, list(self._state(direction, row, h)))

    def _state(self, direction: Expr, row: Expr, unit: Expr) -> tuple[Expr, Expr, Expr]:
        """Where a state lies as operand and as result."""
        return (row, direction, unit) if self.layout.spec.batch_first else (direction, row, unit)

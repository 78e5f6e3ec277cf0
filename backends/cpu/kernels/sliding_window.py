"""Windows that slide over channel-blocked data, a vector of channels at a time: depthwise and grouped convolution, pooling.

A tile is a row of output pixels by one vector of channels. Input vectors are read once a tile and kernel row and used by every
pixel that they reach, so that arithmetic, not loads, bounds the speed in cache; out of cache each row of the input comes from
memory once. Padding is never materialised: tiles that touch the left or right border are code of their own, and so are
rows near the top and bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.ragged_taps import each_ragged_tap
from graphopt.backends.cpu.kernels.register_tile import bind, bind_segments
from graphopt.backends.cpu.kernels.slices import (
    each_slice,
    epilogue_of_images,
    placed,
    result_as_images,
)
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig
from graphopt.backends.cpu.kernels.sliding_operator import Operator
from graphopt.backends.cpu.kernels.task_loops import each_range
from graphopt.backends.cpu.kernels.tiling import Named, Segment, split_balanced, split_by_taps, split_symbolic_window
from graphopt.backends.cpu.kernels.vector_tile import VectorTile
from graphopt.backends.cpu.kernels.widened import widened
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.slices import Image
from graphopt.backends.templates.operand import Parameter, View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator

_MAX_CODE = 1500
"""Most accumulations in the text of a kernel that writes out all rows of its window."""


def emit(
    spec: Conv2dSpec,
    config: SlidingConfig,
    inputs: Sequence[Parameter],
    operator: Callable[[list[View]], Operator],
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "sliding_window",
    style: StoreStyle = StoreStyle.unrolled,
    broadcast: Collection[int] = (),
) -> tirx.PrimFunc:
    """Emits ``name(*inputs, *extras, output: spec.output_shape)``.

    Args:
        spec: the window and the output's shape; its block is a multiple of ``config.lanes``.
        config: the tile.
        inputs: name, element type and physical shape of the operands.
        operator: what to compute, given the buffers of the inputs.
        epilogue: maps a result at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
        broadcast: inputs whose elements are broadcast, by number.
    """
    phases = [Phase(spec, operator)]
    return emit_phases(phases, spec.output_shape, config, inputs, epilogue, extras, name, style, broadcast)


@dataclass(frozen=True)
class Phase:
    """One of several windows that share out an output: every ``step``-th row and column of it, from ``first``.

    Attributes:
        spec: the window, and the extent of the share.
        operator: what to compute, given the buffers of the inputs.
    """

    spec: Conv2dSpec
    operator: Callable[[list[View]], Operator]
    first: tuple[int, int] = (0, 0)
    step: tuple[int, int] = (1, 1)


def emit_phases(
    phases: Sequence[Phase],
    output_shape: Sequence[tirx.Expr | int],
    config: SlidingConfig,
    inputs: Sequence[Parameter],
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "sliding_window",
    style: StoreStyle = StoreStyle.unrolled,
    broadcast: Collection[int] = (),
) -> tirx.PrimFunc:
    """As `emit`, with several windows that run over the same data; the first has the most rows.

    The result may be plain here (a block of 1): it is then stored element by element.
    """

    def body(buffers: list[View], operands: list[tirx.Buffer], output: View) -> None:
        complete = epilogue_of_images(epilogue or store_accumulator, phases[0].spec)
        output = result_as_images(output, phases[0].spec)
        for i in broadcast:
            buffers[i] = widened(buffers[i], config.lanes, config.parallel)
        kernels = [_Kernel(p, config, p.operator(buffers), operands, output, complete, style) for p in phases]
        _loops(kernels, config)

    return build_prim_func(name, inputs, extras, (output_shape, phases[0].spec.types.output), body)


def _loops(kernels: Sequence[_Kernel], config: SlidingConfig) -> None:
    """Emits the loops over all rows of all images and blocks."""
    spec = kernels[0].spec
    symbolic = spec.static_plane is None
    columns = [bind_segments(kernel.columns(bind)) for kernel in kernels]
    heights = [bind(kernel.spec.out_height, symbolic) for kernel in kernels]
    most = heights[0]
    block = config.lanes if spec.out_block == 1 else spec.out_block
    blocks = -(-spec.out_channels // block)

    def row(image: Image, index: tirx.Expr, top: tirx.Expr) -> None:
        for kernel, segments, height in zip(kernels, columns, heights):
            if isinstance(height, int) and isinstance(most, int) and height == most:
                kernel.row(image, index, top, segments)
            else:
                with T.If(top < height), T.Then():
                    kernel.row(image, index, top, segments)

    def range_of_rows(plane: tirx.Expr, first: tirx.Expr, count: tirx.Expr | int) -> None:
        image, index = placed(spec, bind(tirx.floordiv(plane, blocks))), bind(tirx.floormod(plane, blocks))
        with T.serial(0, count) as i:
            row(image, index, bind(first + i))

    if symbolic or not isinstance(spec.batch, int):
        each_range(spec.batch * blocks, most, config.parallel, range_of_rows)
        return
    with (T.parallel if config.parallel else T.serial)(0, spec.batch * (blocks * most)) as flat:
        plane = tirx.floordiv(flat, most)
        row(tirx.floordiv(plane, blocks), tirx.floormod(plane, blocks), tirx.floormod(flat, most))


@dataclass(frozen=True)
class _Kernel:
    phase: Phase
    config: SlidingConfig
    operator: Operator
    operands: Sequence[tirx.Buffer]
    output: View
    epilogue: EpilogueFn
    style: StoreStyle

    @property
    def spec(self) -> Conv2dSpec:
        """The window."""
        return self.phase.spec

    def row(self, image: Image, block: tirx.Expr, top: tirx.Expr, columns: Sequence[Segment]) -> None:
        """Emits row ``top`` of a block of channels."""
        spec, symbolic = self.spec, self.spec.static_plane is None
        vectors = 1 if spec.out_block == 1 else spec.out_block // self.config.lanes
        written_out = self._written_out(columns)

        def tiles(some: Sequence[Segment], inside: bool) -> None:
            for column in some:
                with serial_loop(column.count) as index, serial_loop(vectors) as part:
                    left = bind(column.start + index * column.tile, symbolic)
                    self._tile(image, block * vectors + part, top, left, column, inside)

        if not spec.pads[0] and not spec.pads[2]:
            tiles(columns, written_out)
            return
        if not written_out:
            tiles(columns, False)
            return

        # narrow tiles of rows of unknown length are few: they do without code for rows inside
        usual = [column for column in columns if not self._is_narrow(column)]
        first = top * spec.strides[0] - spec.pads[0]
        reach = (spec.kernel[0] - 1) * spec.dilations[0]
        with T.If(tirx.all(first >= 0, first + reach < spec.in_height)):
            with T.Then():
                tiles(usual, True)
            with T.Else():
                tiles(usual, False)
        tiles([column for column in columns if self._is_narrow(column)], False)

    def columns(self, named: Named) -> list[Segment]:
        """The tiles along a row; parts that are expressions go through ``named``."""
        spec, tile = self.spec, self.config.tile
        if not isinstance(spec.out_width, int):
            segments = split_symbolic_window(spec.out_width, tile, spec.window(1), spec.pads[3], named)
            return self._with_whole_row(segments, named) if self.config.whole else segments
        columns = split_balanced(spec.out_width, tile)
        return split_by_taps(columns, spec.window(1)) if any(spec.pads) else columns

    def _with_whole_row(self, segments: Sequence[Segment], named: Named) -> list[Segment]:
        """The same tiles, but a single one for a row of the length that has code of its own."""
        spec, width = self.spec, self.config.whole
        found = named(tirx.Select(spec.out_width == width, T.int64(1), T.int64(0)))
        window = spec.window(1)
        reach = (window.kernel - 1) * window.dilation
        known = replace(window, extent=width + reach - window.lead - spec.pads[3])
        others = [replace(segment, count=named(segment.count * (1 - found))) for segment in segments]
        return [Segment(0, width, found, known.taps(0, width)), *others]

    def _is_narrow(self, column: Segment) -> bool:
        """Whether tiles are of the few that are left over where run time tells how long a row is."""
        return not isinstance(column.count, int) and (
            column.clipped or column.ragged or column.tile < self.config.tile - 1
        )

    def _written_out(self, columns: Sequence[Segment]) -> bool:
        """Whether each element of the window is code of its own, rather than each row a turn of a loop."""
        steps = self.operator.steps(tirx.const(0, "int32")) if self.operator.written_out else 1
        taps = self.spec.kernel[0] * self.spec.kernel[1]
        widths = (column.tile for column in columns if not self._is_narrow(column))
        return steps * taps * sum(widths) <= _MAX_CODE + taps * self.config.whole

    def _tile(
        self, image: Image, vector: tirx.Expr, top: tirx.Expr, left: tirx.Expr, column: Segment, inside: bool
    ) -> None:
        spec, lanes = self.spec, self.config.lanes
        registers = VectorTile(column.tile, 1, lanes, spec.types.sum)
        padded = bool(spec.pads[0] or spec.pads[2])
        whole = (inside or not padded) and column.taps is None and not column.clipped and not column.ragged
        if whole:
            self = replace(self, operator=self.operator.on_data(vector))
        operator = self.operator
        written_out = operator.separable or (inside and spec.slices is None and operator.steps(vector) == 1)
        if operator.begins and written_out and not column.clipped and not column.ragged:
            registers.leave_open()
        else:
            registers.fill(operator.start)
        if operator.separable:
            self._columns_first(registers, image, vector, top, left, column, inside or not padded)
        elif operator.written_out:
            for step in range(operator.steps(vector)):
                self._kernel_rows(registers, image, vector, step, top, left, column, inside)
        elif spec.slices is not None:
            for tap in each_slice(spec.slices, image):
                self._kernel_rows(registers, image, vector, tap, top, left, column, inside)
        else:
            with serial_loop(operator.steps(vector)) as step:
                self._kernel_rows(registers, image, vector, step, top, left, column, inside)
        registers.fill_open(operator.start)

        (first_row, first_column), (down, across) = self.phase.first, self.phase.step

        def store(total: tirx.Expr, point: tirx.Expr | int, channel: tirx.Expr) -> None:
            h, w = top * down + first_row, (left + point) * across + first_column
            finished = operator.finish(total, top, left + point, whole)
            result = self.epilogue(finished, (image, channel, h, w), self.operands)
            at = [image, channel, h, w]
            if spec.out_block > 1:
                at = [image, tirx.floordiv(channel, spec.out_block), h, w, tirx.floormod(channel, spec.out_block)]
            self.output.store(result, at)

        if spec.out_block > 1:
            registers.store([vector * lanes], store, self.style)
        else:
            registers.store_elements(vector * lanes, spec.out_channels, store)

    def _kernel_rows(
        self,
        registers: VectorTile,
        image: Image,
        vector: tirx.Expr,
        step: tirx.Expr | int,
        top: tirx.Expr,
        left: tirx.Expr,
        column: Segment,
        inside: bool,
    ) -> None:
        """Emits what the tile takes from all rows of the window."""
        spec = self.spec
        if inside:
            for ky in range(spec.kernel[0]):
                self._kernel_row(registers, image, vector, step, top, ky, left, column)
        elif spec.pads[0] or spec.pads[2]:
            low, count = (bind(bound, spec.static_plane is None) for bound in spec.window(0).clip(top))
            with T.serial(0, count) as turn:
                self._kernel_row(registers, image, vector, step, top, low + turn, left, column)
        else:
            with T.serial(0, spec.kernel[0]) as ky:
                self._kernel_row(registers, image, vector, step, top, ky, left, column)

    def _kernel_row(
        self,
        registers: VectorTile,
        image: Image,
        vector: tirx.Expr,
        step: tirx.Expr | int,
        top: tirx.Expr,
        ky: tirx.Expr | int,
        left: tirx.Expr,
        column: Segment,
    ) -> None:
        """Emits what the tile takes from one row of the window, input pixel by input pixel."""
        spec, operator = self.spec, self.operator
        y = top * spec.strides[0] + (ky * spec.dilations[0] - spec.pads[0])
        x = left * spec.strides[1] - spec.pads[1]

        def add(point: int, kx: tirx.Expr | int, offset: tirx.Expr | int) -> None:
            value = operator.value(image, vector, step, y, x + offset)
            registers.set(point, 0, operator.accumulate(registers.held(point, 0), value, vector, step, ky, kx))

        self._uses(left, column, add)

    def _columns_first(
        self,
        registers: VectorTile,
        image: Image,
        vector: tirx.Expr,
        top: tirx.Expr,
        left: tirx.Expr,
        column: Segment,
        whole: bool,
    ) -> None:
        """Emits a tile of a separable operator: the total of each input column, then what each window takes of these."""
        spec, operator = self.spec, self.operator
        total = VectorTile(1, 1, self.config.lanes, spec.types.sum)
        low, count = (0, spec.kernel[0])
        if not whole:
            low, count = (bind(bound, spec.static_plane is None) for bound in spec.window(0).clip(top))
        held: list[tirx.Expr | int] = []  # the column whose total is at hand

        def add(point: int, kx: tirx.Expr | int, offset: tirx.Expr | int) -> None:
            def read(turn: tirx.Expr | int) -> tirx.Expr:
                y = top * spec.strides[0] + ((low + turn) * spec.dilations[0] - spec.pads[0])
                return operator.value(image, vector, 0, y, left * spec.strides[1] - spec.pads[1] + offset)

            def include(value: tirx.Expr) -> None:
                total.set(0, 0, operator.accumulate(total.get(0, 0), value, vector, 0, 0, 0))

            if not held or not isinstance(offset, int) or held[0] != offset:
                held[:] = [offset]
                if whole:
                    total.set(0, 0, read(0))
                    for turn in range(1, spec.kernel[0]):
                        include(read(turn))
                else:
                    total.fill(operator.start)
                    with T.serial(0, count) as turn:
                        include(read(turn))
            registers.set(point, 0, operator.accumulate(registers.held(point, 0), total.get(0, 0), vector, 0, 0, 0))

        self._uses(left, column, add)

    def _uses(
        self,
        left: tirx.Expr,
        column: Segment,
        add: Callable[[int, tirx.Expr | int, tirx.Expr | int], None],
    ) -> None:
        """Calls ``add(point, kx, input column from the tile's first)`` for all that a tile reads of a row, column by column."""
        stride, dilation, width = self.spec.strides[1], self.spec.dilations[1], self.spec.kernel[1]
        if column.clipped:
            low, count = (bind(bound) for bound in self.spec.window(1).clip(left))
            with T.serial(0, count) as turn:
                for point in range(column.tile):
                    add(point, low + turn, point * stride + (low + turn) * dilation)
            return
        if column.ragged:

            def add_points(kx: tirx.Expr, points: tuple[int, int]) -> None:
                for point in range(*points):
                    add(point, kx, point * stride + kx * dilation)

            each_ragged_tap(self.spec.window(1), left, column.tile, add_points)
            return
        spans = column.taps or ((0, column.tile),) * width
        uses = [
            (point * stride + kx * dilation, point, kx)
            for kx, (first, last) in enumerate(spans)
            for point in range(first, last)
        ]
        for offset, point, kx in sorted(uses):
            add(point, kx, offset)


def serial_loop(count: tirx.Expr | int) -> AbstractContextManager[Any]:
    """A serial loop, none at all for a single turn."""
    return nullcontext(0) if isinstance(count, int) and count == 1 else T.serial(0, count)

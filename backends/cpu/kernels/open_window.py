"""Windows that slide over plain data whose rows and columns only run time knows, a vector of output columns at a time.

As where sizes are known, strips of a channel's plane are copied into scratch with their padding around them. Scratch has room for
so many rows and columns; longer planes are several strips in both directions. The last vector of a row is moved back to end where
the row ends, and so is the last tile of rows: they compute some outputs again. Rows shorter than a vector are stored element by
element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.plain_config import (
    PlainWindowConfig,
    columns_read,
    padding_columns,
    scratch_columns,
    strip_input,
)
from graphopt.backends.cpu.kernels.plain_tile import PlainTiles, Strip
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.cpu.kernels.sliding_window import serial_loop
from graphopt.backends.cpu.kernels.task_loops import each_range
from graphopt.backends.cpu.kernels.vector_tile import ON_STACK, broadcast, ramp
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.tensor import as_expr


@dataclass(frozen=True)
class OpenWindow:
    """Emits the kernel of a window.

    Attributes:
        spec: the window.
        config: tile and strip.
        data: what it slides over.
        tiles: what is computed, and where it goes.
    """

    spec: Conv2dSpec
    config: PlainWindowConfig
    data: View
    tiles: PlainTiles

    def loops(self) -> None:
        """Emits the loops over strips of all channels."""
        spec, config = self.spec, self.config
        height, width = bind(as_expr(spec.out_height)), bind(as_expr(spec.out_width))
        tall, down = _equal_parts(height, config.strip, config.rows)
        wide, across = _equal_parts(width, config.columns, config.lanes)

        def some(plane: tirx.Expr, first: tirx.Expr, count: tirx.Expr | int) -> None:
            image, channel = bind(tirx.floordiv(plane, spec.in_channels)), bind(tirx.floormod(plane, spec.in_channels))
            with T.serial(0, count) as turn:
                row = bind(tirx.floordiv(first + turn, across))
                top, left = bind(row * tall), bind((first + turn - row * across) * wide)
                self._strip(image, channel, top, left, _rest(height, top, tall), _rest(width, left, wide))

        each_range(spec.batch * spec.in_channels, bind(down * across), config.parallel, some)

    def _strip(
        self, image: tirx.Expr, channel: tirx.Expr, top: tirx.Expr, left: tirx.Expr, height: tirx.Expr, width: tirx.Expr
    ) -> None:
        spec, config, lanes = self.spec, self.config, self.config.lanes
        most = -(-config.strip // config.rows) * config.rows
        shape = (spec.strides[1], strip_input(spec, most), scratch_columns(spec, lanes, config.columns))
        strip = Strip(
            T.alloc_buffer(shape, spec.types.sum, scope="local", annotations=ON_STACK), image, channel, top, left
        )
        self._copy(strip, height, width)
        vectors = bind(ceil_div(width, lanes))
        together = bind(tirx.floordiv(vectors, config.vectors)) if config.vectors > 1 else 0
        last = bind(tirx.max(width - lanes, 0))

        def tiles(first: tirx.Expr, rows: int) -> None:
            if config.vectors > 1:
                with T.serial(0, together) as turn:
                    starts = [bind(tirx.min((turn * config.vectors + v) * lanes, last)) for v in range(config.vectors)]
                    self.tiles.tile(strip, first, rows, starts)
            with T.serial(0, vectors - together * config.vectors) as turn:
                start = bind(tirx.min((together * config.vectors + turn) * lanes, last))
                self.tiles.tile(strip, first, rows, [start], width)

        rows = config.rows
        if rows == 1:
            with T.serial(0, height) as first:
                tiles(first, 1)
            return
        with T.If(height >= rows):
            with T.Then(), T.serial(0, ceil_div(height, rows)) as turn:
                tiles(bind(tirx.min(turn * rows, height - rows)), rows)
            with T.Else(), T.serial(0, height) as first:
                tiles(first, 1)

    def _copy(self, strip: Strip, height: tirx.Expr, width: tirx.Expr) -> None:
        """Emits the copy of a strip's input into scratch, padded."""
        spec, lanes, stride, scratch = self.spec, self.config.lanes, self.spec.strides[1], strip.scratch
        lead, read = spec.pads[1], bind(columns_read(spec, 0) + width)
        before, behind = padding_columns(spec, lanes) if lead or spec.pads[3] else (0, 0)
        blank = broadcast(tirx.const(self.tiles.operator.start, spec.types.sum), lanes)
        spans = []
        for phase in range(stride):
            # column c of this remainder holds input column (left + c) * stride + phase - lead
            first = bind(tirx.min(tirx.max(-(-(lead - phase) // stride) - strip.left, 0), read))
            last = ceil_div(spec.in_width + (lead - phase), stride) - strip.left
            spans.append((first, bind(tirx.max(tirx.min(last, read), first))))

        def fill(phase: int, row: tirx.Expr, start: tirx.Expr | int, vectors: tirx.Expr | int) -> None:
            with serial_loop(vectors) as turn:
                T.buffer_store(scratch, blank, [phase, row, ramp(start + turn * lanes, lanes)])

        def move(row: tirx.Expr, y: tirx.Expr) -> None:
            for phase, (_, last) in enumerate(spans):
                if before:
                    fill(phase, row, 0, before // lanes)
                if behind:
                    fill(phase, row, last, behind // lanes)
            self._move_row(strip, row, y, spans)

        rows = (height - 1) * spec.strides[0] + strip_input(spec, 1)
        with T.serial(0, rows) as row:
            y = bind(strip.top * spec.strides[0] - spec.pads[0] + row)
            if not spec.pads[0] and not spec.pads[2]:
                move(row, y)
                return
            with T.If(tirx.all(y >= 0, y < spec.in_height)):
                with T.Then():
                    move(row, y)
                with T.Else():
                    for phase in range(stride):
                        fill(phase, row, 0, ceil_div(read, lanes))

    def _move_row(
        self, strip: Strip, row: tirx.Expr, y: tirx.Expr, spans: Sequence[tuple[tirx.Expr, tirx.Expr]]
    ) -> None:
        """Emits the copy of a row: columns that all remainders have in vectors, the last ones moved back, others one by one.

        Args:
            strip: where it goes.
            row: its row there.
            y: which row of the input.
            spans: first column of each remainder, and that behind its last one.
        """
        spec, lanes, stride = self.spec, self.config.lanes, self.spec.strides[1]
        at = [strip.image, strip.channel, y]
        source = strip.left * stride - spec.pads[1]

        def one_by_one(phase: int, start: tirx.Expr, stop: tirx.Expr) -> None:
            with T.serial(0, stop - start) as turn:
                value = self.data.load([*at, (start + turn) * stride + (source + phase)])
                T.buffer_store(strip.scratch, value, [phase, row, start + turn])

        # the first remainder begins last, the last one ends first
        first, stop = spans[0][0], bind(tirx.max(spans[-1][1], spans[0][0]))
        count = bind(stop - first)
        with T.If(count >= lanes):
            with T.Then(), T.serial(0, ceil_div(count, lanes)) as turn:
                column = bind(first + tirx.min(turn * lanes, count - lanes))
                place = bind(column * stride + source)
                parts = [self.data.load([*at, ramp(place + part * lanes, lanes)]) for part in range(stride)]
                for phase in range(stride):
                    picked = range(phase, stride * lanes, stride)
                    value = parts[0] if stride == 1 else tirx.Shuffle(parts, [T.int32(i) for i in picked])
                    T.buffer_store(strip.scratch, value, [phase, row, ramp(column, lanes)])
            with T.Else():
                for phase in range(stride):
                    one_by_one(phase, first, stop)
        for phase, (low, high) in enumerate(spans):
            if phase > 0:
                one_by_one(phase, low, tirx.min(first, high))
            if phase < stride - 1:
                one_by_one(phase, tirx.max(stop, low), high)


def _equal_parts(extent: tirx.Expr, most: int, multiple: int) -> tuple[tirx.Expr, tirx.Expr]:
    """Size and number of parts of about equal size, up to ``most`` rounded up to a ``multiple``, which the size is."""
    parts = bind(tirx.max(ceil_div(extent, most), 1))
    size = bind(tirx.floordiv(tirx.floordiv(extent + parts - 1, parts) + (multiple - 1), multiple) * multiple)
    size = bind(tirx.max(size, multiple))
    return size, bind(tirx.floordiv(extent + size - 1, size))


def _rest(extent: tirx.Expr, start: tirx.Expr, part: tirx.Expr) -> tirx.Expr:
    """Elements of the part that begins at ``start``."""
    return bind(tirx.min(part, extent - start))

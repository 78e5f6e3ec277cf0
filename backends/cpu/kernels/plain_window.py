"""Windows that slide over plain NCHW data, a vector of output columns at a time: depthwise convolution and pooling.

A strip of a channel's plane is first copied into scratch that fits the first-level cache, with its padding around it and, for
strides, the columns sorted by their remainder. There every tap of the window is one vector load for a row of outputs,
and no border needs code of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.sliding_window import serial_loop
from graphopt.backends.cpu.kernels.tiling import split_balanced
from graphopt.backends.cpu.kernels.vector_tile import (
    ON_STACK,
    VectorTile,
    branch_on_tile,
    broadcast,
    column_tiles,
    largest_power,
    ramp,
)
from graphopt.backends.cpu.kernels.widened import widened
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.operand import Parameter, View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator

_STRIP_BYTES = 16 * 1024
_MAX_VECTORS = 4
_MAX_TILE = 12
_MAX_CODE = 1500


class PlainOperator(Protocol):
    """What is computed from the values under a window; vectors are TVM vector expressions of ``lanes`` float32."""

    @property
    def start(self) -> float:
        """What an accumulator begins with, and the value of padding."""

    def accumulate(self, old: tirx.Expr, value: tirx.Expr, channel: tirx.Expr, ky: int, kx: int) -> tirx.Expr:
        """The accumulator after the value under kernel element ``(ky, kx)``."""

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
        """One lane's result at output pixel ``(h, w)``."""


@dataclass(frozen=True)
class PlainWindowConfig:
    """How to compute it.

    Attributes:
        lanes: output columns a vector; no more than the output has.
        vectors: vectors of columns a register tile.
        rows: output rows a register tile.
        strip: output rows a strip.
        parallel: whether strips are shared out among threads.
    """

    lanes: int
    vectors: int
    rows: int
    strip: int
    parallel: bool = True


def supports(spec: Conv2dSpec, caps: Caps) -> str | None:
    """Why the loops can't run over ``spec``, or None if they can."""
    if not spec.groups == spec.in_channels == spec.out_channels:
        return "needs one filter a channel"
    if spec.in_block != 1 or spec.out_block != 1:
        return "needs plain layouts"
    if not isinstance(spec.batch, int) or spec.static_plane is None:
        return "needs known sizes"
    if min(spec.pads) < 0:
        return "negative padding"
    if min(spec.batch, spec.in_channels, *spec.static_plane) < 1:
        return "an empty dimension"
    if spec.kernel[0] * spec.kernel[1] > _MAX_CODE // 8:
        return "a large window"
    if _scratch_row(spec, 16) * _strip_input(spec, 1) * 4 > 4 * _STRIP_BYTES:
        return "rows too long for scratch"
    return None


def default_config(spec: Conv2dSpec, caps: Caps, kept: int, parallel: bool) -> PlainWindowConfig:
    """A tile that fits the registers besides ``kept`` operands, and strips that fit the first-level cache."""
    lanes, vectors, room = _limits(spec, caps, kept)
    rows = _most_rows(spec, vectors, room)
    return PlainWindowConfig(lanes, vectors, rows, _strip(spec, lanes, rows), parallel)


def configurations(spec: Conv2dSpec, caps: Caps, kept: int) -> Iterator[PlainWindowConfig]:
    """Tiles that fit the registers besides ``kept`` operands, on the longest strips that fit in cache and on half of that."""
    lanes, most, room = _limits(spec, caps, kept)
    for vectors in range(1, most + 1):
        for rows in range(1, _most_rows(spec, vectors, room) + 1):
            strip = _strip(spec, lanes, rows)
            for height in dict.fromkeys((strip, max(rows, -(-strip // 2)))):
                for parallel in caps.thread_choices:
                    yield PlainWindowConfig(lanes, vectors, rows, height, parallel)


def _limits(spec: Conv2dSpec, caps: Caps, kept: int) -> tuple[int, int, int]:
    """Lanes, most vectors of a tile, and registers for its accumulators."""
    assert spec.static_plane is not None
    width = spec.static_plane[1]
    lanes = min(spec.types.lanes(caps), largest_power(width))
    room = max(2, min(caps.vector_registers - 4 - min(kept, caps.vector_registers // 4), _MAX_TILE))
    return lanes, min(-(-width // lanes), _MAX_VECTORS, room), room


def _most_rows(spec: Conv2dSpec, vectors: int, room: int) -> int:
    assert spec.static_plane is not None
    taps = spec.kernel[0] * spec.kernel[1]
    return max(1, min(room // vectors, spec.static_plane[0], _MAX_CODE // (4 * taps * vectors)))


def _strip(spec: Conv2dSpec, lanes: int, rows: int) -> int:
    """Rows of the longest strip whose input fits the first-level cache, no fewer than a tile's."""
    assert spec.static_plane is not None
    strip = spec.static_plane[0]
    while (
        strip > rows
        and _scratch_row(spec, lanes) * _strip_input(spec, strip) * spec.types.accumulator.bytes > _STRIP_BYTES
    ):
        strip = -(-strip // 2)
    return strip


def _strip_input(spec: Conv2dSpec, rows: int) -> int:
    """Input rows under ``rows`` output rows."""
    return (rows - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.dilations[0] + 1


def _scratch_row(spec: Conv2dSpec, lanes: int) -> int:
    """Elements of a scratch row: columns of every remainder, with room for a vector of padding."""
    return spec.strides[1] * _scratch_columns(spec, lanes)


def _scratch_columns(spec: Conv2dSpec, lanes: int) -> int:
    reach = _columns_read(spec)
    data = -(-(int(spec.in_width) + spec.pads[1]) // spec.strides[1])
    return -(-(max(reach, data) + 2 * lanes) // lanes) * lanes


def _columns_read(spec: Conv2dSpec) -> int:
    """Columns of a remainder that windows reach."""
    return (spec.kernel[1] - 1) * spec.dilations[1] // spec.strides[1] + int(spec.out_width)


def emit(
    spec: Conv2dSpec,
    config: PlainWindowConfig,
    inputs: Sequence[Parameter],
    operator: Callable[[list[View]], PlainOperator],
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "plain_window",
    style: StoreStyle = StoreStyle.unrolled,
    broadcast: Collection[int] = (),
) -> tirx.PrimFunc:
    """Emits ``name(*inputs, *extras, output: spec.output_shape)``; the first input is the data.

    Args:
        spec: the window; `supports` must accept it.
        config: tile and strip.
        inputs: name, element type and shape of the operands.
        operator: what to compute, given the buffers of the inputs.
        epilogue: maps a result at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
        broadcast: inputs whose elements are broadcast, by number.
    """

    def body(buffers: list[View], operands: list[tirx.Buffer], output: View) -> None:
        views = [
            widened(view, config.lanes, config.parallel) if i in broadcast else view for i, view in enumerate(buffers)
        ]
        _Kernel(
            spec, config, buffers[0], operator(views), operands, output, epilogue or store_accumulator, style
        ).loops()

    return build_prim_func(name, inputs, extras, (spec.output_shape, spec.types.output), body)


@dataclass(frozen=True)
class _Kernel:
    spec: Conv2dSpec
    config: PlainWindowConfig
    data: View
    operator: PlainOperator
    operands: Sequence[tirx.Buffer]
    output: View
    epilogue: EpilogueFn
    style: StoreStyle

    def loops(self) -> None:
        """Emits the loops over strips of all channels."""
        spec, config = self.spec, self.config
        height = int(spec.out_height)
        strips = split_balanced(height, config.strip)
        count = sum(int(part.count) for part in strips)
        loop = T.parallel if config.parallel else T.serial
        with loop(0, int(spec.batch) * spec.in_channels * count) as flat:
            index, plane = tirx.floormod(flat, count), tirx.floordiv(flat, count)
            image, channel = tirx.floordiv(plane, spec.in_channels), tirx.floormod(plane, spec.in_channels)
            if len(strips) == 1:
                self._strip(image, channel, index * strips[0].tile, strips[0].tile)
                return
            tall, low = strips
            with T.If(index < tall.count):
                with T.Then():
                    self._strip(image, channel, index * tall.tile, tall.tile)
                with T.Else():
                    top = low.start + (index - tall.count) * low.tile
                    self._strip(image, channel, top, low.tile)

    def _strip(self, image: tirx.Expr, channel: tirx.Expr, top: tirx.Expr, height: int) -> None:
        spec, config = self.spec, self.config
        rows, columns = _strip_input(spec, height), _scratch_columns(spec, config.lanes)
        shape = (spec.strides[1], rows, columns)
        scratch = T.alloc_buffer(shape, spec.types.sum, scope="local", annotations=ON_STACK)
        self._copy(scratch, rows, image, channel, top)
        tiles = column_tiles(int(spec.out_width), config.lanes, config.vectors)
        for part in split_balanced(height, config.rows):
            with serial_loop(part.count) as turn, serial_loop(sum(tile.count for tile in tiles)) as index:
                first = part.start + turn * part.tile
                branch_on_tile(
                    index,
                    tiles,
                    lambda left, offsets, first=first, part=part: self._tile(  # type: ignore[misc]
                        scratch, image, channel, top, first, part.tile, left, offsets
                    ),
                )

    def _copy(self, scratch: tirx.Buffer, rows: int, image: tirx.Expr, channel: tirx.Expr, top: tirx.Expr) -> None:
        """Emits the copy of a strip's input into scratch, padded."""
        spec, lanes = self.spec, self.config.lanes
        stride, lead = spec.strides[1], spec.pads[1]
        columns, read = int(scratch.shape[2]), _columns_read(spec)
        blank = broadcast(tirx.const(self.operator.start, spec.types.sum), lanes)

        def fill(row: tirx.Expr, phase: int, start: int, stop: int) -> None:
            for column in range(start, stop, lanes):
                at = min(column, columns - lanes)
                T.buffer_store(scratch, blank, [phase, row, ramp(at, lanes)])

        def move(row: tirx.Expr, y: tirx.Expr) -> None:
            at = [image, channel, y]
            line = self._widened_line(at) if stride > 1 and self.data.type.is_narrow else None
            for phase in range(stride):
                # column c of this remainder holds input column c * stride + phase - lead
                first = -(-(lead - phase) // stride)
                last = max(first, -(-(int(spec.in_width) + lead - phase) // stride))
                source = phase - lead
                fill(row, phase, 0, first)
                fill(row, phase, last, read)
                if stride == 1:
                    self._move_row(scratch, [0, row], at, first, last, source)
                    continue
                with T.serial(0, last - first) as c:
                    column = (c + first) * stride + source
                    value = self.data.load([*at, column]) if line is None else line[column]
                    T.buffer_store(scratch, value, [phase, row, c + first])

        with T.serial(0, rows) as row:
            y = top * spec.strides[0] - spec.pads[0] + row
            if spec.pads[0] or spec.pads[2]:
                with T.If(tirx.all(y >= 0, y < spec.in_height)):
                    with T.Then():
                        move(row, y)
                    with T.Else():
                        for phase in range(stride):
                            fill(row, phase, 0, read)
            else:
                move(row, y)

    def _widened_line(self, at: list[Any]) -> tirx.Buffer:
        """Emits a copy of an input row in the type that is computed with: LLVM 22 picks every other element of float32 with
        vectors, but converts elements of 16 bits that don't adjoin one by one."""
        width = int(self.spec.in_width)
        line = T.alloc_buffer((width,), self.spec.types.sum, scope="local", annotations=ON_STACK)
        self._move_row(line, [], at, 0, width, 0)
        return line

    def _move_row(
        self, target: tirx.Buffer, where: list[Any], at: list[Any], first: int, last: int, source: int
    ) -> None:
        """Emits a copy of adjacent columns in vectors, narrower ones at the end."""
        column, width = first, self.config.lanes
        with T.serial(0, (last - first) // width) as turn:
            start = first + turn * width
            value = self.data.load([*at, ramp(start + source, width)])
            T.buffer_store(target, value, [*where, ramp(start, width)])
        column += (last - first) // width * width
        while column < last:
            width = largest_power(last - column)
            value = self.data.load([*at, ramp(column + source, width)])
            T.buffer_store(target, value, [*where, ramp(column, width)])
            column += width

    def _tile(
        self,
        scratch: tirx.Buffer,
        image: tirx.Expr,
        channel: tirx.Expr,
        top: tirx.Expr,
        first: tirx.Expr | int,
        rows: int,
        left: tirx.Expr | int,
        offsets: tuple[int, ...],
    ) -> None:
        spec, lanes, operator = self.spec, self.config.lanes, self.operator
        sums = VectorTile(rows, len(offsets), lanes, spec.types.sum)
        sums.fill(operator.start)
        uses = sorted(
            (row * spec.strides[0] + ky * spec.dilations[0], kx, vector, row, ky)
            for row in range(rows)
            for ky in range(spec.kernel[0])
            for kx in range(spec.kernel[1])
            for vector in range(len(offsets))
        )
        for below, kx, vector, row, ky in uses:
            column, phase = divmod(kx * spec.dilations[1], spec.strides[1])
            at = [phase, first * spec.strides[0] + below, ramp(left + (offsets[vector] + column), lanes)]
            value = tirx.BufferLoad(scratch, at)
            sums.set(row, vector, operator.accumulate(sums.get(row, vector), value, channel, ky, kx))

        def store(total: tirx.Expr, row: tirx.Expr | int, w: tirx.Expr) -> None:
            h = top + first + row
            result = self.epilogue(operator.finish(total, h, w), (image, channel, h, w), self.operands)
            self.output.store(result, [image, channel, h, w])

        sums.store([left + offset for offset in offsets], store, self.style)

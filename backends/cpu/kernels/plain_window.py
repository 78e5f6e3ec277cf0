"""Windows that slide over plain NCHW data, a vector of output columns at a time: depthwise convolution and pooling.

A strip of a channel's plane is first copied into scratch that fits the first-level cache, with its padding around it and, for
strides, the columns sorted by their remainder. There every tap of the window is one vector load for a row of outputs,
and no border needs code of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.open_window import OpenWindow
from graphopt.backends.cpu.kernels.plain_config import PlainWindowConfig, columns_read, scratch_columns, strip_input
from graphopt.backends.cpu.kernels.plain_tile import PlainOperator, PlainTiles, Strip
from graphopt.backends.cpu.kernels.sliding_window import serial_loop
from graphopt.backends.cpu.kernels.tiling import split_balanced
from graphopt.backends.cpu.kernels.vector_tile import (
    ON_STACK,
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
        finish = epilogue or store_accumulator
        tiles = PlainTiles(spec, config.lanes, operator(views), operands, output, finish, style)
        kernel = _Kernel if spec.static_plane is not None else OpenWindow
        kernel(spec, config, buffers[0], tiles).loops()

    return build_prim_func(name, inputs, extras, (spec.output_shape, spec.types.output), body)


@dataclass(frozen=True)
class _Kernel:
    spec: Conv2dSpec
    config: PlainWindowConfig
    data: View
    tiles: PlainTiles

    def loops(self) -> None:
        """Emits the loops over strips of all channels."""
        spec, config = self.spec, self.config
        height = int(spec.out_height)
        strips = split_balanced(height, config.strip)
        count = sum(int(part.count) for part in strips)
        loop = T.parallel if config.parallel else T.serial
        with loop(0, spec.batch * (spec.in_channels * count)) as flat:
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
        rows, columns = strip_input(spec, height), scratch_columns(spec, config.lanes, 0)
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
                    lambda left, offsets, first=first, part=part: self.tiles.tile(  # type: ignore[misc]
                        Strip(scratch, image, channel, top), first, part.tile, [left + o for o in offsets]
                    ),
                )

    def _copy(self, scratch: tirx.Buffer, rows: int, image: tirx.Expr, channel: tirx.Expr, top: tirx.Expr) -> None:
        """Emits the copy of a strip's input into scratch, padded."""
        spec, lanes = self.spec, self.config.lanes
        stride, lead = spec.strides[1], spec.pads[1]
        columns, read = int(scratch.shape[2]), columns_read(spec, int(spec.out_width))
        blank = broadcast(tirx.const(self.tiles.operator.start, spec.types.sum), lanes)

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

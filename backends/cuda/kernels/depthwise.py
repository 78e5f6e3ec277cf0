"""Convolutions with a channel or few a group: a thread has neighbouring channels of a few neighbouring pixels.

There are too few products for tensor cores: memory is what such layers wait for. A thread reads every element of its rows once, for
all the windows that meet it, and weights once for all of its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from graphopt.backends.base.element_type import ElementType, GivenZeroPoint
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.finished_rows import move
from graphopt.backends.cuda.kernels.positions import require_positions
from graphopt.backends.cuda.kernels.thread_block import (
    LARGEST_POSITION,
    address,
    blocks,
    bound,
    number,
    quotient,
    registers,
    rest,
)
from graphopt.backends.cuda.kernels.tile_loop import guard, tiles
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand
from graphopt.backends.tensors.tensor import Expr


@dataclass(frozen=True)
class DepthwiseConfig:
    """How to compute it.

    Attributes:
        channels: neighbours of a thread.
        pixels: of a thread, along the last spatial axis.
        threads: of a block.
    """

    channels: int
    pixels: int
    threads: int = 128


def emit(
    spec: ImplicitGemmSpec, config: DepthwiseConfig, epilogue: EpilogueFn, extras: Sequence[ExtraOperand], name: str,
    weight_type: ElementType, where: str = "",
) -> tirx.PrimFunc:  # fmt: skip
    """Emits ``name(data, weight: (taps, output channels), *extras, output)`` for a group an input channel, two spatial axes.

    Args:
        spec: the convolution; channels of data and result are innermost, or ``config.channels`` is 1.
        config: what a thread computes.
        epilogue: maps a sum at ``(image, channel, row, column)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        weight_type: of the packed weights, which is that of sums.
        where: label of the node, for messages.
    """
    rows, columns = spec.windows
    height, width = spec.outputs
    vectors = spec.out_channels // config.channels
    strips = tiles(width, config.pixels)
    total = number(spec.batch) * number(height) * strips * vectors
    multiple = spec.columns

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        require_positions(where, spec.data_shape, spec.result_shape)
        data, weight = inputs
        flat = View(T.decl_buffer((number(LARGEST_POSITION),), data.type.storage, data=data.buffer.data), data.type)
        with (
            blocks((tiles(total, config.threads), 1, 1), config.threads) as (block, _, _, thread),
            ExitStack() as stack,
        ):
            index = bound(block * config.threads + thread)
            guard(stack, index < total)
            conversion = spec.types.input.conversion
            given = None if conversion is None else conversion.zero_point
            if isinstance(given, GivenZeroPoint):  # read here: the host can't read a device's memory
                T.add_to_parent(tirx.Bind(given.variable, tirx.BufferLoad(operands[-1], [number(0)])))
            order = (image, row, strip, vector) if spec.result_last else (image, vector, row, strip)
            at = dict(zip(order, _split(index, [_extent(part) for part in order])))
            first = bound(at[strip] * config.pixels)
            channel = bound(at[vector] * config.channels)
            sums = registers(config.pixels * config.channels, spec.types.sum)
            with T.unroll(0, config.pixels * config.channels) as i:
                T.buffer_store(sums, tirx.const(0, spec.types.sum), [i])
            start = bound(at[row] * rows.stride - rows.lead)
            from_ = bound(first * columns.stride - columns.lead)
            reached = (config.pixels - 1) * columns.stride + (columns.kernel - 1) * columns.dilation + 1
            with T.unroll(0, rows.kernel) as tap_row:
                y = bound(start + tap_row * rows.dilation)
                with T.If(tirx.call_pure_extern("bool", "gopt_inside", y, number(rows.extent))), T.Then():
                    factors = registers(columns.kernel * config.channels, weight_type.storage)
                    for tap in range(columns.kernel):
                        at_weight = (tap_row * columns.kernel + tap) * spec.out_channels + channel
                        _move(weight, factors, at_weight, tap * config.channels, config.channels, weight_type)
                    for x in range(reached):
                        met = [
                            (p, (x - p * columns.stride) // columns.dilation)
                            for p in range(config.pixels)
                            if 0 <= x - p * columns.stride <= (columns.kernel - 1) * columns.dilation
                            and (x - p * columns.stride) % columns.dilation == 0
                        ]
                        if not met:
                            continue
                        place = bound(from_ + x)
                        inside = tirx.call_pure_extern("bool", "gopt_inside", place, number(columns.extent))
                        with T.If(inside), T.Then():
                            element = _position(spec, at[image], quotient(channel, multiple), y, place)
                            own = View(registers(config.channels, data.type.storage), data.type)
                            _load(flat, own.buffer, bound(element), config.channels, data.type)
                            with T.unroll(0, config.channels) as c:
                                for pixel, tap in met:
                                    to = pixel * config.channels + c
                                    product = own[c] * factors[tap * config.channels + c]
                                    T.buffer_store(sums, sums[to] + product, [to])
            _store(spec, config, epilogue, operands, output, sums, at[image], at[row], first, channel)

    image, row, strip, vector = "image", "row", "strip", "vector"

    def _extent(part: str) -> Expr:
        return {image: spec.batch, row: height, strip: strips, vector: vectors}[part]

    return build_prim_func(
        name,
        [("data", spec.data_shape, spec.types.input), ("weight", (spec.taps * spec.out_channels,), weight_type)],
        extras,
        (spec.result_shape, spec.types.output),
        body,
    )


def _split(index: Expr, extents: Sequence[Expr]) -> list[Expr]:
    places: list[Expr] = []
    for extent in reversed(extents[1:]):
        places.insert(0, bound(rest(index, number(extent))))
        index = quotient(index, number(extent))
    return [bound(index), *places]


def _position(spec: ImplicitGemmSpec, image: Expr, channel: Expr, y: Expr, x: Expr) -> Expr:
    height, width = (number(w.extent) for w in spec.windows)
    if spec.data_last:
        return ((image * height + y) * width + x) * spec.in_channels + channel
    return ((image * spec.in_channels + channel) * height + y) * width + x


def _load(source: View, to: tirx.Buffer, at: Expr, count: int, type_: ElementType) -> None:
    if count > 1:
        move(count, type_.bytes, lambda i: address(to, i), lambda i: address(source.buffer, at + i))
    else:
        T.buffer_store(to, source.buffer[at], [0])


def _move(source: View, to: tirx.Buffer, at: Expr, target: int, count: int, type_: ElementType) -> None:
    if count > 1:
        move(count, type_.bytes, lambda i: address(to, target + i), lambda i: address(source.buffer, at + i))
    else:
        T.buffer_store(to, source.buffer[at], [target])


def _store(
    spec: ImplicitGemmSpec, config: DepthwiseConfig, epilogue: EpilogueFn, operands: Sequence[tirx.Buffer], output: View,
    sums: tirx.Buffer, image: Expr, row: Expr, first: Expr, channel: Expr,
) -> None:  # fmt: skip
    """Emits the epilogue of a thread's pixels."""
    width, type_ = spec.outputs[-1], output.type
    with T.unroll(0, config.pixels) as pixel, ExitStack() as stack:
        column = bound(first + pixel)
        if not isinstance(width, int) or width % config.pixels:
            guard(stack, column < number(width))
        if config.channels == 1:
            value = epilogue(sums[pixel], (image, channel, row, column), operands)
            where = [image, row, column, channel] if spec.result_last else [image, channel, row, column]
            output.store(value, where)
            return
        results = registers(config.channels, type_.storage)
        with T.unroll(0, config.channels) as c:
            value = epilogue(sums[pixel * config.channels + c], (image, channel + c, row, column), operands)
            T.buffer_store(results, type_.stored(value), [c])
        move(
            config.channels, type_.bytes,
            lambda i: address(output.buffer, image, row, column, channel + i), lambda i: address(results, i),
        )  # fmt: skip

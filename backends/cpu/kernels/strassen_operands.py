"""Matrix products and convolutions as Strassen's products: where their rows lie."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.cpu.kernels.strassen_product import Place, Rows, StrassenProduct
from graphopt.backends.cpu.kernels.strassen_tile import StrassenConfig, packed_weight_shape
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator

_MOST_TOGETHER = 4
"""Vectors of a row's steps that lie together in scratch."""


def product_of(spec: Conv2dSpec) -> MatmulSpec:
    """The product that a convolution is: a row for each pixel of the result, a step for each channel that a kernel reaches.

    Steps are in the order of blocks of channels, rows and columns of the kernel, channels of a block.
    """
    rows = spec.batch * (spec.out_height * spec.out_width)
    return MatmulSpec(rows, spec.out_channels, spec.reduction, spec.types)


def emit_matmul(
    spec: MatmulSpec,
    config: StrassenConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "matmul_strassen",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(a: (M, K), weight: packed_weight_shape, *extras, output: (M, N))``.

    Args:
        spec: the problem; `strassen_tile.supports` must accept it.
        config: how it is cut; its weights must be packed with the same.
        epilogue: maps an accumulator at ``(m, n)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    complete = epilogue or store_accumulator
    steps = spec.k // config.parts
    block = next(n * config.lanes for n in range(_MOST_TOGETHER, 0, -1) if steps % (n * config.lanes) == 0)

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        def store(value: tirx.Expr, place: Place, column: tirx.Expr) -> None:
            index = (*place, column)
            output.store(complete(value, index, operands), list(index))

        rows = Rows(lambda row: (row,), lambda place, k, steps, _: inputs[0][place[0], k * block + steps], store, block)
        StrassenProduct(spec, config, rows, inputs[1], style).emit()

    inputs = [
        ("a", (spec.m, spec.k), spec.types.input),
        ("weight", packed_weight_shape(spec, config), spec.types.weight),
    ]
    return build_prim_func(name, inputs, extras, ((spec.m, spec.n), spec.types.output), body)


def emit_conv2d(
    spec: Conv2dSpec,
    config: StrassenConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "conv2d_strassen",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data: spec.input_shape, weight: packed_weight_shape, *extras, output: spec.output_shape)``.

    Args:
        spec: a convolution of one group, of channels in blocks.
        config: how it is cut; its weights must be packed with the same.
        epilogue: maps an accumulator at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    complete = epilogue or store_accumulator
    problem = product_of(spec)
    taps = spec.kernel[0] * spec.kernel[1]
    block = spec.in_block if taps > 1 else _pointwise_block(spec, config)
    windows = spec.window(0), spec.window(1)

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        data = inputs[0]

        def place(row: tirx.Expr) -> Place:
            pixels, width = spec.out_height * spec.out_width, spec.out_width
            inside = bind(tirx.floormod(row, pixels))
            return (
                bind(tirx.floordiv(row, pixels)),
                bind(tirx.floordiv(inside, width)),
                bind(tirx.floormod(inside, width)),
            )

        def first_of(place: Place, axis: int) -> tirx.Expr:
            """Input row or column that the kernel's first one meets."""
            return place[1 + axis] * windows[axis].stride - windows[axis].lead

        def read(place: Place, k: tirx.Expr, steps: tirx.Expr, beyond: bool) -> tirx.Expr:
            first = tirx.floordiv(k, taps) * block
            channels, lane = tirx.floordiv(first, spec.in_block), tirx.floormod(first, spec.in_block)
            tap = tirx.floormod(k, taps)
            down, right = tirx.floordiv(tap, spec.kernel[1]), tirx.floormod(tap, spec.kernel[1])
            h, w = (first_of(place, axis) + at * windows[axis].dilation for axis, at in enumerate((down, right)))
            if not beyond:
                return data[place[0], channels, h, w, lane + steps]
            there = tirx.all(h >= 0, w >= 0, h < spec.in_height, w < spec.in_width)
            h = tirx.max(0, tirx.min(h, spec.in_height - 1))
            w = tirx.max(0, tirx.min(w, spec.in_width - 1))
            found = data[place[0], channels, h, w, lane + steps]
            zero = tirx.Broadcast(tirx.const(0, spec.types.sum), config.lanes)
            return tirx.Select(tirx.Broadcast(there, config.lanes), found, zero)

        def inside(place: Place) -> tirx.Expr:
            conditions = []
            for axis, extent in enumerate((spec.in_height, spec.in_width)):
                first = first_of(place, axis)
                reach = (spec.kernel[axis] - 1) * windows[axis].dilation
                conditions += [first >= 0, first + reach < extent]
            return tirx.all(*conditions)

        def store(value: tirx.Expr, place: Place, column: tirx.Expr) -> None:
            image, h, w = place
            stored = complete(value, (image, column, h, w), operands)
            channels, lane = tirx.floordiv(column, spec.out_block), tirx.floormod(column, spec.out_block)
            output.store(stored, [image, channels, h, w, lane])

        rows = Rows(place, read, store, block, inside if any(spec.pads) else None)
        StrassenProduct(problem, config, rows, inputs[1], style).emit()

    shape = packed_weight_shape(problem, config)
    inputs = [("data", spec.input_shape, spec.types.input), ("weight", shape, spec.types.weight)]
    return build_prim_func(name, inputs, extras, (spec.output_shape, spec.types.output), body)


def _pointwise_block(spec: Conv2dSpec, config: StrassenConfig) -> int:
    """Channels that lie together in the data and in a part."""
    steps = spec.in_channels // config.parts
    return next(b for b in (spec.in_block, 8, 4) if steps % b == 0 and spec.in_block % b == 0)

"""Convolutions, and matrix products with constant weights: rows are output points, and find their data where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.kernels.finished_rows import Finish, Place, store_width
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.cuda.kernels.positions import require_positions
from graphopt.backends.cuda.kernels.row_packing import packed_shape
from graphopt.backends.cuda.kernels.sliced import Slices
from graphopt.backends.cuda.kernels.staged_rows import DataRows, WeightRows, unravelled
from graphopt.backends.cuda.kernels.thread_block import blocks, bound, number, quotient, rest
from graphopt.backends.cuda.kernels.tile_loop import Block, guard, raster, tiles
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec, Phases
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dtypes import DType


def emit(
    spec: ImplicitGemmSpec, config: GemmConfig, epilogue: EpilogueFn, extras: Sequence[ExtraOperand], name: str,
    shape: Sequence[Expr] = (), where: str = "",
) -> tirx.PrimFunc:  # fmt: skip
    """Emits ``name(data, weight: packed_shape, *extras, output)``; with slices, their counters follow the extras.

    Args:
        spec: the product.
        config: tiles; the weights must be packed for the same type of products.
        epilogue: maps a sum at the logical index ``(image, channel, *places)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        shape: physical shape of the result, by default the specification's; another one with the same elements if extras have it.
        where: label of the node, for messages.
    """
    row_tiles = tiles(spec.rows, config.block_rows)
    column_tiles = -(-spec.columns // config.block_columns)

    steps = -(-spec.depth // config.step)
    own_steps = -(-steps // config.slices)
    counters = (
        [ExtraOperand("counters", (tile_count(spec, config),), element_type(DType.i32))] if config.slices > 1 else []
    )

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        require_positions(where, spec.data_shape, spec.result_shape)
        parts = Slices.scratch(config, tile_count(spec, config)) if counters else None
        grid = (row_tiles * column_tiles, spec.parts, config.slices)
        with blocks(grid, config.threads) as (number_, part, slice_, thread), ExitStack() as stack:
            group, phase = _phase(spec, part)
            row_tile, column_tile = raster(number_, row_tiles, column_tiles)
            first_row = bound(row_tile * config.block_rows)
            first_column = bound(column_tile * config.block_columns)
            block = Block(config, thread)
            data = DataRows(spec, config, inputs[0], thread, block.shared, group, first_row, _moved(spec, phase))
            weights = WeightRows(config, inputs[1], thread, block.shared, part, first_column)
            tile = block.tile()
            if parts is None:
                block.multiply(steps, data, weights, tile)
            else:
                first_step = bound(slice_ * own_steps)
                own = (
                    own_steps
                    if steps == own_steps * config.slices
                    else bound(tirx.min(number(own_steps), steps - first_step))
                )
                block.multiply(own, data, weights, tile, first_step)
                slices = Slices(config, parts, operands[-1])
                number_of_tile = bound(part * (row_tiles * column_tiles) + number_)
                guard(stack, slices.collect(tile.sums, number_of_tile, slice_, thread))

            def place(point: Expr, column: Expr) -> Place:
                image, places = unravelled(spec, point)
                image, places = bound(image), [bound(at) for at in places]
                channel = bound(group * spec.columns + column)
                condition = None
                if spec.phases is not None:
                    places, condition = _spread(spec.phases, phase, places)
                    point = image
                    for extent, at in zip(spec.phases.extents, places):
                        point = point * number(extent) + at
                physical = [image, *places, channel] if spec.result_last else [image, channel, *places]
                flat = point * spec.out_channels + channel
                return Place(lambda i: (image, channel + i, *places), physical, flat, channel, condition)

            width = store_width(spec.columns, spec.types.output, config.tile_columns) if spec.result_last else 1
            finish = Finish(
                spec.types.sum, epilogue, extras, operands[: len(extras)], output, width,
                shape or spec.result_shape, spec.out_channels,
            )  # fmt: skip
            block.finish(
                tile, finish, (first_row, first_column), (spec.rows, spec.columns), place, along_rows=not spec.result_last
            )  # fmt: skip

    return build_prim_func(
        name,
        [
            ("data", spec.data_shape, spec.types.input),
            ("weight", packed_shape(spec, config), spec.types.weight),
        ],
        [*extras, *counters],
        (spec.result_shape, spec.types.output),
        body,
    )


def _phase(spec: ImplicitGemmSpec, part: Expr) -> tuple[Expr, list[Expr]]:
    """The group of a part, and its phase along each spatial axis."""
    if spec.phases is None:
        return part, []
    phase: list[Expr] = []
    left = part
    for stride in reversed(spec.phases.strides):
        phase.insert(0, bound(rest(left, number(stride))))
        left = quotient(left, number(stride))
    return bound(left), phase


def _moved(spec: ImplicitGemmSpec, phase: Sequence[Expr]) -> list[Expr]:
    """How much further the windows of a phase begin, by spatial axis."""
    if spec.phases is None:
        return []
    axes = zip(phase, spec.phases.leads, spec.phases.strides)
    return [bound(quotient(at + lead, number(stride))) for at, lead, stride in axes]


def _spread(phases: Phases, phase: Sequence[Expr], places: Sequence[Expr]) -> tuple[list[Expr], Expr | None]:
    """Where the points of a phase are in the result, and whether they are there."""
    spread = [bound(at * stride + own) for at, stride, own in zip(places, phases.strides, phase)]
    condition: Expr | None = None
    for at, extent, stride in zip(spread, phases.extents, phases.strides):
        if not isinstance(extent, int) or extent % stride:
            inside = at < number(extent)
            condition = inside if condition is None else tirx.And(condition, inside)
    return spread, condition


def tile_count(spec: ImplicitGemmSpec, config: GemmConfig) -> int:
    """Tiles of the result; it must be of known size."""
    assert spec.static_rows is not None
    return -(-spec.static_rows // config.block_rows) * -(-spec.columns // config.block_columns) * spec.parts

"""Convolutions and products of matrices on tensor cores: tiles of both operands pass through shared memory in several stages.

A block computes a tile of the result. While its warps multiply one stage, the copies of the next ones are under way (cp.async where
there is one), one barrier a stage. Sums go through shared memory once more, a band of each warp's tile at a time, so that the
epilogue is evaluated on neighbours and all memory is read and written in whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.finished_rows import Finish, guarded, store_width
from graphopt.backends.cuda.kernels.gemm_config import PADDING, ROW_BYTES, GemmConfig
from graphopt.backends.cuda.kernels.products import ROWS
from graphopt.backends.cuda.kernels.row_packing import packed_shape
from graphopt.backends.cuda.kernels.staged_rows import DataRows, WeightRows, unravelled
from graphopt.backends.cuda.kernels.tensor_core_tile import TensorCoreTile
from graphopt.backends.cuda.kernels.thread_block import (
    WARP,
    address,
    barrier,
    blocks,
    bound,
    call,
    number,
    shared_bytes,
    warp_barrier,
)
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand
from graphopt.backends.tensors.tensor import Expr

RASTER_ROWS = 8
"""Tiles along rows that blocks take before they go on to the next columns: neighbours in time share both operands in L2."""


def emit(
    spec: ImplicitGemmSpec, config: GemmConfig, epilogue: EpilogueFn, extras: Sequence[ExtraOperand], name: str,
    shape: Sequence[Expr] = (),
) -> tirx.PrimFunc:  # fmt: skip
    """Emits ``name(data, weight: packed_shape, *extras, output)``.

    Args:
        spec: the product.
        config: tiles; the weights must be packed for the same type of products.
        epilogue: maps a sum at the logical index ``(image, channel, *places)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        shape: physical shape of the result, by default the specification's; another one with the same elements if extras have it.
    """
    column_tiles = -(-spec.columns // config.block_columns)
    row_tiles = tirx.floordiv(number(spec.rows) + (config.block_rows - 1), number(config.block_rows))
    if spec.static_rows is not None:
        row_tiles = number(-(-spec.static_rows // config.block_rows))

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        with blocks((row_tiles * column_tiles, spec.groups, 1), config.threads) as (block, group, _, thread):
            row_tile, column_tile = _raster(block, row_tiles, column_tiles)
            first_row = bound(row_tile * config.block_rows)
            first_column = bound(column_tile * config.block_columns)
            shared = shared_bytes(config.shared_bytes)
            lane, warp = bound(tirx.floormod(thread, WARP)), bound(tirx.floordiv(thread, WARP))
            warp_row = bound(tirx.floordiv(warp, config.warp_columns))
            warp_column = bound(tirx.floormod(warp, config.warp_columns))
            data = DataRows(spec, config, inputs[0], thread, shared, group, first_row)
            weights = WeightRows(config, inputs[1], thread, shared, group, first_column)
            tile = TensorCoreTile(config, warp_row, warp_column, lane, shared)
            tile.clear()
            _multiply(spec, config, data, weights, tile)
            width = store_width(spec, config.tile_columns)
            finish = Finish(spec, epilogue, extras, operands, output, width, shape or spec.result_shape)
            row = bound(first_row + warp_row * config.tile_rows)
            column = bound(first_column + warp_column * config.tile_columns)
            _finish(spec, config, tile, finish, shared, warp, lane, group, row, column)

    return build_prim_func(
        name,
        [
            ("data", spec.data_shape, spec.types.input),
            ("weight", packed_shape(spec, config), spec.types.weight),
        ],
        extras,
        (spec.result_shape, spec.types.output),
        body,
    )


def _raster(block: Expr, row_tiles: Expr, column_tiles: int) -> tuple[Expr, Expr]:
    """The tile of a block: bands of `RASTER_ROWS` tiles along rows, in which columns follow one another."""
    if column_tiles == 1:
        return block, number(0)
    band = bound(tirx.floordiv(block, number(RASTER_ROWS * column_tiles)))
    within = bound(tirx.floormod(block, number(RASTER_ROWS * column_tiles)))
    rows = bound(tirx.min(row_tiles - band * RASTER_ROWS, number(RASTER_ROWS)))
    return bound(band * RASTER_ROWS + tirx.floormod(within, rows)), bound(tirx.floordiv(within, rows))


def _multiply(
    spec: ImplicitGemmSpec, config: GemmConfig, data: DataRows, weights: WeightRows, tile: TensorCoreTile
) -> None:
    """Emits the loop over the reduction."""
    steps = -(-spec.depth // config.step)
    ahead = config.stages - 1

    def copy(step: Expr, slot: Expr) -> None:
        stage = bound(slot * config.stage_bytes)
        data.copy(step, stage)
        weights.copy(step, stage + config.block_rows * ROW_BYTES)

    for step in range(ahead):
        if step < steps:
            copy(number(step), number(step))
        call("gopt_copy_commit")
    with T.serial(number(0), number(steps)) as step:
        call("gopt_copy_wait", number(ahead - 1))
        barrier()  # the stage has arrived for all threads, and the one before has been read by all
        if steps > ahead:
            with ExitStack() as stack:
                guarded(stack, step + ahead < steps)
                copy(bound(step + ahead), bound(tirx.floormod(step + ahead, number(config.stages))))
        call("gopt_copy_commit")
        tile.multiply(bound(tirx.floormod(step, number(config.stages)) * config.stage_bytes))
    call("gopt_copy_wait", number(0))
    barrier()  # sums take the place of the stages


def _finish(
    spec: ImplicitGemmSpec, config: GemmConfig, tile: TensorCoreTile, finish: Finish, shared: tirx.Buffer,
    warp: Expr, lane: Expr, group: Expr, first_row: Expr, first_column: Expr,
) -> None:  # fmt: skip
    """Emits the way of a warp's sums through its part of shared memory and the epilogue."""
    width = finish.width
    line = config.tile_columns + PADDING
    start = bound(warp * config.band_bytes)
    vectors = config.tile_columns // width
    total = ROWS * vectors
    with T.unroll(0, tile.bands) as band:
        warp_barrier()
        tile.stage_band(band, start)
        warp_barrier()
        with T.serial(0, -(-total // WARP)) as turn, ExitStack() as stack:
            index = bound(turn * WARP + lane)
            if total % WARP:
                guarded(stack, index < total)
            if spec.result_last:
                row, vector = bound(tirx.floordiv(index, vectors)), bound(tirx.floormod(index, vectors))
            else:  # neighbouring points are neighbours in memory
                row, vector = bound(tirx.floormod(index, ROWS)), bound(tirx.floordiv(index, ROWS))
            point = bound(first_row + band * ROWS + row)
            column = bound(first_column + vector * width)
            guarded(stack, tirx.And(point < number(spec.rows), column < spec.columns))
            image, places = unravelled(spec, point)
            at = bound(start + (row * line + vector * width) * 4)
            channel = bound(group * spec.columns + column)
            finish.emit(lambda i: address(shared, at + i * 4), point, bound(image), [bound(p) for p in places], channel)

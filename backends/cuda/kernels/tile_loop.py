"""The block of threads that multiplies a tile: stages in turn, then the way of sums to the epilogue.

While the warps of a block multiply one stage, the copies of the next ones are under way (cp.async where there is one), one barrier
a stage. Sums go through shared memory once more, a band of each warp's tile at a time, so that the epilogue is evaluated on
neighbours and all memory is read and written in whole rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.finished_rows import Finish, Place
from graphopt.backends.cuda.kernels.gemm_config import PADDING, ROW_BYTES, GemmConfig
from graphopt.backends.cuda.kernels.lane_tile import LaneTile
from graphopt.backends.cuda.kernels.products import ROWS
from graphopt.backends.cuda.kernels.tensor_core_tile import TensorCoreTile
from graphopt.backends.cuda.kernels.thread_block import (
    WARP,
    address,
    barrier,
    bound,
    call,
    number,
    quotient,
    rest,
    rolled,
    shared_bytes,
    warp_barrier,
)
from graphopt.backends.tensors.tensor import Expr

Tile = TensorCoreTile | LaneTile

RASTER_ROWS = 8
"""Tiles along rows that blocks take before they go on to the next columns: neighbours in time share both operands in L2."""


class Rows(Protocol):
    """Rows of an operand on their way into shared memory."""

    def copy(self, step: Expr, stage: Expr) -> None:
        """Emits the copy of a step of the reduction to byte ``stage`` of shared memory."""


def raster(block: Expr, row_tiles: Expr, column_tiles: Expr) -> tuple[Expr, Expr]:
    """The tile of a block: bands of `RASTER_ROWS` tiles along rows, in which columns follow one another."""
    if isinstance(column_tiles, int) and column_tiles == 1:
        return block, number(0)
    band_tiles = number(column_tiles) * RASTER_ROWS
    band = bound(quotient(block, band_tiles))
    within = bound(rest(block, band_tiles))
    rows = bound(tirx.min(row_tiles - band * RASTER_ROWS, number(RASTER_ROWS)))
    return bound(band * RASTER_ROWS + rest(within, rows)), bound(quotient(within, rows))


def tiles(extent: Expr, size: int) -> Expr:
    """How many tiles cover an extent."""
    return number(-(-extent // size)) if isinstance(extent, int) else quotient(number(extent) + (size - 1), size)


@dataclass
class Block:
    """One block's work on a tile.

    Attributes:
        config: tiles.
        thread: number of the thread in its block.
        columns_inner: whether columns of the second operand are innermost in its stages.
        made_late: whether the second operand is made at run time, and so not rounded yet.
    """

    config: GemmConfig
    thread: Expr
    columns_inner: bool = False
    made_late: bool = False

    def __post_init__(self) -> None:
        config = self.config
        self.shared = shared_bytes(config.shared_bytes)
        self.lane = bound(rest(self.thread, WARP))
        self.warp = bound(quotient(self.thread, WARP))
        self.warp_row = bound(quotient(self.warp, config.warp_columns))
        self.warp_column = bound(rest(self.warp, config.warp_columns))

    def tile(self) -> Tile:
        """Accumulators of zeros."""
        place = (self.warp_row, self.warp_column, self.lane, self.shared)
        made: Tile
        if self.config.kind.function:
            made = TensorCoreTile(self.config, *place, columns_inner=self.columns_inner, rounds_both=self.made_late)
        else:
            made = LaneTile(self.config, *place)
        made.clear()
        return made

    def multiply(self, steps: Expr, data: Rows, weights: Rows, tile: Tile, first: Expr = 0) -> None:
        """Emits the loop over ``steps`` steps of the reduction, from step ``first`` on."""
        config = self.config
        ahead = config.stages - 1

        def copy(step: Expr, slot: Expr) -> None:
            with ExitStack() as stack:
                if not isinstance(steps, int):
                    guard(stack, step < steps)
                elif isinstance(step, int) and step >= steps:
                    return
                elif not isinstance(step, int):
                    guard(stack, step < steps)
                stage = bound(number(slot) * config.stage_bytes)
                at = bound(number(step) + first) if not isinstance(first, int) or first else number(step)
                data.copy(at, stage)
                weights.copy(at, stage + config.block_rows * ROW_BYTES)

        for step in range(ahead):
            copy(step, step)
            call("gopt_copy_commit")
        with rolled(number(steps)) as step:
            call("gopt_copy_wait", number(ahead - 1))
            barrier()  # the stage has arrived for all threads, and the one before has been read by all
            if not isinstance(steps, int) or steps > ahead:
                copy(bound(step + ahead), bound(rest(step + ahead, number(config.stages))))
            call("gopt_copy_commit")
            tile.multiply(bound(rest(step, number(config.stages)) * config.stage_bytes))
        call("gopt_copy_wait", number(0))
        barrier()  # sums take the place of the stages

    def finish(
        self, tile: Tile, finish: Finish, first: tuple[Expr, Expr], ends: tuple[Expr, Expr],
        place: Callable[[Expr, Expr], Place], along_rows: bool = False,
    ) -> None:  # fmt: skip
        """Emits the way of sums through shared memory and the epilogue.

        Args:
            tile: the sums.
            finish: the epilogue.
            first: first row and column of the block's tile.
            ends: how many rows and columns there are.
            place: of a row and a column.
            along_rows: whether neighbouring rows are neighbours in memory, in place of columns.
        """
        config, width = self.config, finish.width
        line = config.tile_columns + PADDING
        first_row = bound(first[0] + self.warp_row * config.tile_rows)
        first_column = bound(first[1] + self.warp_column * config.tile_columns)
        start = bound(self.warp * config.band_bytes)
        vectors = config.tile_columns // width
        total = ROWS * vectors
        with T.unroll(0, tile.bands) as band:
            warp_barrier()
            tile.stage_band(band, start)
            warp_barrier()
            with T.serial(0, -(-total // WARP)) as turn, ExitStack() as stack:
                index = bound(turn * WARP + self.lane)
                if total % WARP:
                    guard(stack, index < total)
                if along_rows:
                    row, vector = bound(rest(index, ROWS)), bound(quotient(index, ROWS))
                else:
                    row, vector = bound(quotient(index, vectors)), bound(rest(index, vectors))
                point = bound(first_row + band * ROWS + row)
                column = bound(first_column + vector * width)
                guard(stack, tirx.And(point < number(ends[0]), column < number(ends[1])))
                at = bound(start + (row * line + vector * width) * 4)
                target = place(point, column)
                if target.condition is not None:
                    guard(stack, target.condition)
                finish.emit(lambda i: address(self.shared, at + i * 4), target)


def guard(stack: ExitStack, condition: Expr) -> None:
    """Puts what ``stack`` spans under a condition."""
    stack.enter_context(T.If(condition))
    stack.enter_context(T.Then())

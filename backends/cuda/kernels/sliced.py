"""Reductions that several blocks share: small results have too few tiles for a whole GPU.

Each block sums up a slice and writes its sums to scratch memory; the last one of a tile to arrive adds the slices up, always in the
same order, and finishes the tile. One launch does it all. (The idea is stream-K's: Osama et al., "Stream-K: Work-centric Parallel
Decomposition for Dense Matrix-Matrix Multiplication on the GPU", 2023.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.formula import Formula
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.cuda.kernels.thread_block import address, bound, call, number
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array

_TOGETHER = 4


@dataclass(frozen=True)
class Counters(Formula):
    """A counter of arrivals for each tile, 0 between launches.

    Attributes:
        tiles: how many there are.
    """

    tiles: int

    @property
    def dtype(self) -> DType:
        """That of counters."""
        return DType.i32

    @property
    def shape(self) -> tuple[int, ...]:
        """A number a tile."""
        return (self.tiles,)

    def __call__(self, *arrays: Array) -> Array:
        """Zeros, whatever the constants."""
        return np.zeros(self.tiles, np.int32)


@dataclass(frozen=True)
class Slices:
    """The slices of all tiles of a launch.

    Attributes:
        config: tiles.
        parts: scratch memory for the sums of all slices.
        counters: arrivals at each tile.
    """

    config: GemmConfig
    parts: tirx.Buffer
    counters: tirx.Buffer

    @staticmethod
    def scratch(config: GemmConfig, tiles: int) -> tirx.Buffer:
        """Emits the memory for the sums of so many tiles."""
        count = tiles * config.slices * config.block_rows * config.block_columns
        return T.alloc_buffer((count,), config.kind.sums)

    def collect(self, sums: tirx.Buffer, tile: Expr, slice_: Expr, thread: Expr) -> Expr:
        """Emits the exchange of sums; whether this block has all of its tile's then, and is to finish it."""
        config = self.config
        own = config.block_rows * config.block_columns // config.threads
        count = config.block_rows * config.block_columns

        def part(which: Expr, i: Expr) -> Expr:
            at = (tile * config.slices + which) * count + (i * config.threads + thread) * _TOGETHER
            return address(self.parts, at)

        with T.unroll(0, own // _TOGETHER) as i:
            call("gopt_move16", part(slice_, i), address(sums, i * _TOGETHER))
        last = bound(
            tirx.call_extern("bool", "gopt_arrives_last", address(self.counters, tile), number(config.slices))
        )  # fmt: skip
        with T.If(last), T.Then():
            with T.unroll(0, own) as i:
                T.buffer_store(sums, tirx.const(0, config.kind.sums), [i])
            with T.serial(0, config.slices) as which, T.unroll(0, own // _TOGETHER) as i:
                call(f"gopt_add_{config.kind.sums}", address(sums, i * _TOGETHER), part(which, i))
        return last

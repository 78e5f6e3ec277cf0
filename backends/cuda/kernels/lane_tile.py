"""A warp's tile of sums, multiplied by the lanes themselves: float32 with nothing rounded but sums.

Lanes stand four down and eight across, and each has every fourth row and every eighth column of the tile: lanes that read shared
memory at the same time find their rows in different banks, or read the same ones.
"""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.gemm_config import CHUNK, PADDING, ROW_BYTES, GemmConfig
from graphopt.backends.cuda.kernels.products import ROWS
from graphopt.backends.cuda.kernels.staged_rows import CHUNKS, place
from graphopt.backends.cuda.kernels.thread_block import address, bound, call, quotient, registers, rest
from graphopt.backends.tensors.tensor import Expr

_DOWN, _ACROSS = 4, 8
_TOGETHER = CHUNK // 4


class LaneTile:
    """Accumulators of a warp; arguments as of `TensorCoreTile`."""

    def __init__(self, config: GemmConfig, warp_row: Expr, warp_column: Expr, lane: Expr, shared: tirx.Buffer) -> None:
        self._config, self._shared = config, shared
        self._rows, self._columns = config.tile_rows // _DOWN, config.tile_columns // _ACROSS
        self.sums = registers(self._rows * self._columns, config.kind.sums)
        self._a = registers(_TOGETHER, "float32")
        self._b = registers(self._columns * _TOGETHER, "float32")
        self._down = bound(quotient(lane, _ACROSS))
        self._across = bound(rest(lane, _ACROSS))
        self._data_row = bound(warp_row * config.tile_rows + self._down)
        self._weight_row = bound(warp_column * config.tile_columns + self._across)

    def clear(self) -> None:
        """Emits the zeroing of all sums."""
        with T.unroll(0, self._rows * self._columns) as i:
            T.buffer_store(self.sums, tirx.const(0, self._config.kind.sums), [i])

    def multiply(self, stage: Expr) -> None:
        """Emits the products of a stage, which begins at byte ``stage``."""
        weights = stage + self._config.block_rows * ROW_BYTES
        with T.unroll(0, CHUNKS) as chunk:
            with T.unroll(0, self._columns) as column:
                at = weights + place(self._weight_row + column * _ACROSS, chunk)
                call("gopt_move16", address(self._b, column * _TOGETHER), address(self._shared, at))
            with T.unroll(0, self._rows) as row:
                at = stage + place(self._data_row + row * _DOWN, chunk)
                call("gopt_move16", address(self._a, 0), address(self._shared, at))
                with T.unroll(0, self._columns) as column, T.unroll(0, _TOGETHER) as k:
                    place_ = row * self._columns + column
                    product = self._a[k] * self._b[column * _TOGETHER + k]
                    T.buffer_store(self.sums, self.sums[place_] + product, [place_])

    @property
    def bands(self) -> int:
        """How often 16 rows of the tile are handed on."""
        return self._config.tile_rows // ROWS

    def stage_band(self, band: Expr, start: Expr) -> None:
        """Emits the writing of 16 rows of sums to shared memory, row by row, from byte ``start``."""
        width = self._config.tile_columns + PADDING
        with T.unroll(0, ROWS // _DOWN) as row, T.unroll(0, self._columns) as column:
            source = address(self.sums, (band * (ROWS // _DOWN) + row) * self._columns + column)
            at = (row * _DOWN + self._down) * width + column * _ACROSS + self._across
            call("gopt_move4", address(self._shared, start + at * 4), source)

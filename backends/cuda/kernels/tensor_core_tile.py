"""A warp's tile of sums, multiplied on tensor cores: fragments come out of shared memory by ``ldmatrix``.

Fragments of the 16 x 8 tiles are spread over the warp as the PTX ISA says ("Matrix fragments for mma"); the eight rows of a matrix
that ``ldmatrix`` loads are given by eight lanes.
"""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.gemm_config import PADDING, ROW_BYTES, GemmConfig
from graphopt.backends.cuda.kernels.products import COLUMNS, ROWS, STEP_BYTES
from graphopt.backends.cuda.kernels.staged_rows import place, place_in_rows
from graphopt.backends.cuda.kernels.thread_block import address, bound, call, number, quotient, registers, rest
from graphopt.backends.tensors.tensor import Expr

_MATRIX_ROWS = 8
_CHUNKS_A_STEP = 2


class TensorCoreTile:
    """Accumulators of a warp.

    Args:
        config: tiles.
        warp_row, warp_column: the warp's place in its block.
        lane: of the thread in its warp.
        shared: the stages.
        columns_inner: whether those of the second operand, of 16-bit elements, hold rows of columns.
        rounds_both: whether the second operand has not been rounded to tf32 before.
    """

    def __init__(
        self, config: GemmConfig, warp_row: Expr, warp_column: Expr, lane: Expr, shared: tirx.Buffer,
        columns_inner: bool = False, rounds_both: bool = False,
    ) -> None:  # fmt: skip
        self._config, self._shared, self._lane, self._columns_inner = config, shared, lane, columns_inner
        self._rounds_both = rounds_both
        self._row_tiles, self._column_tiles = config.tile_rows // ROWS, config.tile_columns // COLUMNS
        self.sums = registers(self._row_tiles * self._column_tiles * 4, config.kind.sums)
        self._a = registers(self._row_tiles * 4, "uint32")
        self._b = registers(self._column_tiles * 2, "uint32")
        matrix, row = quotient(lane, _MATRIX_ROWS), rest(lane, _MATRIX_ROWS)
        low, high = rest(matrix, 2), quotient(matrix, 2)
        # the upper and lower half of 16 rows of data, then the second chunk of both; of weights both chunks first
        self._data_row = bound(warp_row * config.tile_rows + low * _MATRIX_ROWS + row)
        self._data_chunk = bound(high)
        if columns_inner:
            self._weight_row = bound(low * _MATRIX_ROWS + row)
            self._weight_chunk = bound(warp_column * (config.tile_columns // _MATRIX_ROWS) + high)
        else:
            self._weight_row = bound(warp_column * config.tile_columns + high * _MATRIX_ROWS + row)
            self._weight_chunk = bound(low)

    def clear(self) -> None:
        """Emits the zeroing of all sums."""
        with T.unroll(0, self._row_tiles * self._column_tiles * 4) as i:
            T.buffer_store(self.sums, tirx.const(0, self._config.kind.sums), [i])

    def multiply(self, stage: Expr) -> None:
        """Emits the products of a stage, which begins at byte ``stage``."""
        config = self._config
        weights = stage + config.block_rows * ROW_BYTES
        with T.unroll(0, ROW_BYTES // STEP_BYTES) as step:
            with T.unroll(0, self._row_tiles) as tile:
                row = self._data_row + tile * ROWS
                at = stage + place(row, step * _CHUNKS_A_STEP + self._data_chunk)
                call("gopt_load_matrix4", address(self._a, tile * 4), address(self._shared, at))
            with T.unroll(0, self._column_tiles // 2) as pair:
                if self._columns_inner:
                    row, chunk = step * ROWS + self._weight_row, self._weight_chunk + pair * 2
                    at = weights + place_in_rows(row, chunk, config.block_columns)
                    call("gopt_load_matrix4_transposed", address(self._b, pair * 4), address(self._shared, at))
                else:
                    row = self._weight_row + pair * (2 * COLUMNS)
                    at = weights + place(row, step * _CHUNKS_A_STEP + self._weight_chunk)
                    call("gopt_load_matrix4", address(self._b, pair * 4), address(self._shared, at))
            if config.product == "tf32":
                if self._rounds_both:
                    with T.unroll(0, self._column_tiles * 2) as i:
                        T.buffer_store(self._b, tirx.call_extern("uint32", "gopt_tf32", self._b[i]), [i])
                with T.unroll(0, self._row_tiles * 4) as i:
                    rounded = tirx.call_extern("uint32", "gopt_tf32", self._a[i])
                    T.buffer_store(self._a, rounded, [i])
            with T.unroll(0, self._row_tiles) as row, T.unroll(0, self._column_tiles) as column:
                sums = address(self.sums, (row * self._column_tiles + column) * 4)
                call(config.kind.function, sums, address(self._a, row * 4), address(self._b, column * 2))

    @property
    def bands(self) -> int:
        """How often 16 rows of the tile are handed on."""
        return self._row_tiles

    def stage_band(self, band: Expr, start: Expr) -> None:
        """Emits the writing of 16 rows of sums to shared memory, row by row, from byte ``start``."""
        width = self._config.tile_columns + PADDING
        group, word = quotient(self._lane, number(4)), rest(self._lane, number(4))
        with T.unroll(0, self._column_tiles) as column, T.unroll(0, 2) as half:
            source = address(self.sums, (band * self._column_tiles + column) * 4 + half * 2)
            at = (group + half * _MATRIX_ROWS) * width + column * COLUMNS + word * 2
            call("gopt_move8", address(self._shared, start + at * 4), source)

"""Matrix products of operands that are made at run time; leading dimensions are blocks of their own."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.kernels.finished_rows import Finish, Place, store_width
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.cuda.kernels.matrix_rows import DepthRows, Matrix, MatrixRows
from graphopt.backends.cuda.kernels.positions import require_positions
from graphopt.backends.cuda.kernels.thread_block import blocks, bound, number
from graphopt.backends.cuda.kernels.tile_loop import Block, Rows, raster, tiles
from graphopt.backends.specs.matmul import BatchedSpec
from graphopt.backends.templates.matrix_rows import product, unflattened
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand
from graphopt.backends.tensors.tensor import Expr


def emit(
    spec: BatchedSpec, config: GemmConfig, epilogue: EpilogueFn, extras: Sequence[ExtraOperand], name: str, where: str = "",
) -> tirx.PrimFunc:  # fmt: skip
    """Emits ``name(a, b, *extras, output)``.

    Args:
        spec: the products.
        config: tiles.
        epilogue: maps a sum at ``(*batch, m, n)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        where: label of the node, for messages.
    """
    row_tiles, column_tiles = tiles(spec.m, config.block_rows), tiles(spec.n, config.block_columns)
    columns_inner = not spec.transposed_b and config.kind.element == 2
    shape = (*spec.batch, spec.m, spec.n)

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        require_positions(where, spec.a_shape, spec.b_shape, shape)
        grid = (row_tiles * column_tiles, product(spec.batch), 1)
        with blocks(grid, config.threads) as (number_, matrix, _, thread):
            batch = [bound(i) for i in unflattened(matrix, [number(d) for d in spec.batch])] if spec.batch else []
            row_tile, column_tile = raster(number_, row_tiles, number(column_tiles))
            first = (bound(row_tile * config.block_rows), bound(column_tile * config.block_columns))
            block = Block(config, thread, columns_inner, made_late=True)
            a = Matrix(inputs[0], _base(batch, spec.a_batch, spec.m, spec.k), spec.m, spec.k, not spec.transposed_a)
            b = Matrix(inputs[1], _base(batch, spec.b_batch, spec.k, spec.n), spec.n, spec.k, spec.transposed_b)
            data = MatrixRows(config, config.block_rows, a, thread, block.shared, first[0])
            weights: Rows
            if columns_inner:
                weights = DepthRows(config, b, thread, block.shared, first[1])
            else:
                weights = MatrixRows(config, config.block_columns, b, thread, block.shared, first[1])
            tile = block.tile()
            block.multiply(_steps(spec.k, config), data, weights, tile)

            def place(row: Expr, column: Expr) -> Place:
                flat = (matrix * number(spec.m) + row) * number(spec.n) + column
                return Place(lambda i: (*batch, row, column + i), [*batch, row, column], flat, column)

            width = store_width(spec.n, spec.types.output, config.tile_columns) if isinstance(spec.n, int) else 1
            finish = Finish(spec.types.sum, epilogue, extras, operands, output, width, shape, spec.n)
            block.finish(tile, finish, first, (spec.m, spec.n), place)

    return build_prim_func(
        name,
        [("a", spec.a_shape, spec.types.input), ("b", spec.b_shape, spec.types.weight)],
        extras,
        (shape, spec.types.output),
        body,
    )


def _steps(depth: Expr, config: GemmConfig) -> Expr:
    return -(-depth // config.step) if isinstance(depth, int) else tiles(depth, config.step)


def _base(index: Sequence[Expr], own: Sequence[Expr], *matrix: Expr) -> Expr:
    """Where the matrix of an operand begins for a place along the batch, to which the operand may be broadcast."""
    at: Expr = number(0)
    for extent, i in zip(own, index[len(index) - len(own) :]):
        at = at * number(extent)
        if not (isinstance(extent, int) and extent == 1):
            at = at + i
    for extent in matrix:
        at = at * number(extent)
    return bound(at)

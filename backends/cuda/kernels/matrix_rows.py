"""Rows of a matrix made at run time, on their way into shared memory.

What is summed over may lie innermost, which is how stages want it, or not. Then 16-bit elements are staged as they lie, for
``ldmatrix`` to transpose them; others are gathered element by element, neighbouring threads reading neighbours in memory.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.gemm_config import CHUNK, GemmConfig
from graphopt.backends.cuda.kernels.staged_rows import Copier, place_in_rows, side_by_side
from graphopt.backends.cuda.kernels.thread_block import (
    LARGEST_POSITION,
    address,
    bound,
    call,
    number,
    quotient,
    registers,
    rest,
)
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.tensor import Expr


@dataclass(frozen=True)
class Matrix:
    """One operand of one product.

    Attributes:
        data: all matrices of the operand.
        base: where this one begins, in elements.
        rows: along the result.
        depth: along what is summed over.
        depth_inner: whether ``depth`` is innermost.
    """

    data: View
    base: Expr
    rows: Expr
    depth: Expr
    depth_inner: bool

    @property
    def inner(self) -> Expr:
        """Extent of the innermost axis."""
        return self.depth if self.depth_inner else self.rows

    def vector(self, size: int) -> int:
        """Neighbours along the innermost axis that can be copied at once; 1 for none."""
        return side_by_side(self.inner * size, size) if isinstance(self.inner, int) else 1

    def flat(self) -> tirx.Buffer:
        """Emits the operand as one dimension."""
        return T.decl_buffer((number(LARGEST_POSITION),), self.data.type.storage, data=self.data.buffer.data)


class MatrixRows(Copier):
    """Rows with what is summed over innermost in the stages."""

    def __init__(
        self, config: GemmConfig, tile_rows: int, matrix: Matrix, thread: Expr, shared: tirx.Buffer, first: Expr
    ) -> None:  # fmt: skip
        super().__init__(config, tile_rows, thread, shared)
        self._matrix, self._first, self._step = matrix, first, config.step
        self._size = config.kind.element
        self._flat = matrix.flat()

    def copy(self, step: Expr, stage: Expr) -> None:
        """Emits the copy of a step of the reduction."""
        matrix, elements = self._matrix, CHUNK // self._size
        rows, depth = number(matrix.rows), number(matrix.depth)
        vector = matrix.vector(self._size) if matrix.depth_inner else 1
        k = bound(step * self._step + self.chunk * elements)

        def source(row: Expr, at: Expr) -> Expr:
            return matrix.base + (row * depth + at if matrix.depth_inner else at * rows + row)

        def copied(_: Expr, row: Expr) -> None:
            there = self._first + row
            if vector * self._size >= 4:
                for part in range(0, elements, vector):
                    inside = tirx.And(there < rows, k + part < depth)
                    target = self.target(stage, row, part * self._size)
                    at = address(self._flat, source(there, k + part))
                    call(f"gopt_copy_async{vector * self._size}", target, at, inside)
                return
            storage = matrix.data.type.storage
            chunk = registers(elements, storage)
            for part in range(elements):
                inside = tirx.And(there < rows, k + part < depth)
                value = self._flat[source(there, k + part)]
                T.buffer_store(chunk, tirx.if_then_else(inside, value, tirx.const(0, storage)), [part])
            call("gopt_move16", self.target(stage, row), address(chunk, 0))

        self.each(copied)


class DepthRows:
    """Steps of the reduction as rows, columns of 16-bit elements innermost."""

    def __init__(
        self, config: GemmConfig, matrix: Matrix, thread: Expr, shared: tirx.Buffer, first: Expr
    ) -> None:  # fmt: skip
        self._config, self._matrix, self._thread = config, matrix, thread
        self._shared, self._first = shared, first
        self._flat = matrix.flat()

    def copy(self, step: Expr, stage: Expr) -> None:
        """Emits the copy of a step of the reduction."""
        config, matrix = self._config, self._matrix
        elements = CHUNK // config.kind.element
        chunks = config.block_columns // elements
        total, size = config.step * chunks, config.kind.element
        rows, depth, vector = number(matrix.rows), number(matrix.depth), matrix.vector(size)
        with T.unroll(0, -(-total // config.threads)) as turn, ExitStack() as stack:
            index = bound(turn * config.threads + self._thread)
            if total % config.threads:
                stack.enter_context(T.If(index < total))
                stack.enter_context(T.Then())
            row, chunk = bound(quotient(index, chunks)), bound(rest(index, chunks))
            k, column = bound(step * config.step + row), bound(self._first + chunk * elements)
            source = bound(matrix.base + k * rows + column)
            target = stage + place_in_rows(row, chunk, config.block_columns)
            if vector * size >= 4:
                for part in range(0, elements, vector):
                    inside = tirx.And(k < depth, column + part < rows)
                    to = address(self._shared, target + part * size)
                    call(f"gopt_copy_async{vector * size}", to, address(self._flat, source + part), inside)
            else:
                storage = matrix.data.type.storage
                own = registers(elements, storage)
                for part in range(elements):
                    inside = tirx.And(k < depth, column + part < rows)
                    value = self._flat[source + part]
                    T.buffer_store(own, tirx.if_then_else(inside, value, tirx.const(0, storage)), [part])
                call("gopt_move16", address(self._shared, target), address(own, 0))

"""Softmax and LogSoftmax of columns: rows of threads share 32 columns side by side, and read them three times, mostly in caches."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.dialect import CUDA_C, written_in
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.thread_block import WARP, barrier
from graphopt.backends.specs.softmax import ColumnSoftmaxSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.reducers import REDUCERS, identity_of
from graphopt.backends.tensors.tensor import Expr, as_expr


def emit(spec: ColumnSoftmaxSpec, slices: int, name: str = "softmax") -> tirx.PrimFunc:
    """Emits ``name(x, output)``, both ``(matrices, rows, columns)``.

    Args:
        spec: the problem.
        slices: threads that share a column.
        name: global symbol.
    """
    shape = (spec.matrices, spec.rows, spec.columns)
    tiles = -(-spec.columns // WARP)

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        with (
            T.thread_binding(as_expr(0), as_expr(spec.matrices * tiles), thread="blockIdx.x") as block,
            T.thread_binding(as_expr(0), as_expr(WARP * slices), thread="threadIdx.x") as thread,
        ):
            column = tirx.floormod(block, as_expr(tiles)) * WARP + tirx.floormod(thread, as_expr(WARP))
            _Columns(spec, slices, tirx.floordiv(block, as_expr(tiles)), column, thread).emit(inputs[0], output)

    with written_in(CUDA_C):
        return build_prim_func(name, [("x", shape, spec.types.input)], [], (shape, spec.types.output), body)


class _Columns:
    """A block's columns, as one of its threads sees them."""

    def __init__(self, spec: ColumnSoftmaxSpec, slices: int, matrix: Expr, column: Expr, thread: Expr) -> None:
        self._spec, self._slices, self._matrix, self._column = spec, slices, matrix, column
        self._dtype = spec.types.sum
        self._lane, self._slice = tirx.floormod(thread, as_expr(WARP)), tirx.floordiv(thread, as_expr(WARP))
        self._shared = T.alloc_buffer((slices, WARP), self._dtype, scope="shared")

    def emit(self, x: View, output: View) -> None:
        """The three passes."""
        spec = self._spec
        top = self._total("max", lambda row: x[self._matrix, row, self._column])
        total = self._total("sum", lambda row: m.exp(x[self._matrix, row, self._column] - top))
        last = self._register(m.log(total) if spec.log else tirx.const(1.0, self._dtype) / total)

        def write(row: Expr) -> None:
            value = x[self._matrix, row, self._column] - top
            output.store(value - last if spec.log else m.exp(value) * last, [self._matrix, row, self._column])

        self._rows(write)

    def _rows(self, visit: Callable[[Expr], None]) -> None:
        """Emits ``visit(row)`` for the rows of this thread."""
        count = -(-self._spec.rows // self._slices)
        with T.serial(0, as_expr(count)) as step:
            row = step * self._slices + self._slice
            conditions = []
            if self._spec.rows % self._slices:
                conditions.append(row < self._spec.rows)
            if self._spec.columns % WARP:
                conditions.append(self._column < self._spec.columns)
            if not conditions:
                visit(row)
                return
            with T.If(conditions[0] if len(conditions) == 1 else tirx.And(*conditions)), T.Then():
                visit(row)

    def _total(self, kind: str, value: Callable[[Expr], Expr]) -> Expr:
        """Emits the reduction of ``value(row)`` over a column, which all its threads then have."""
        buffer = T.alloc_buffer((1,), self._dtype, scope="local")
        T.buffer_store(buffer, identity_of(kind, self._dtype), [0])
        self._rows(lambda row: T.buffer_store(buffer, REDUCERS[kind](buffer[0], value(row)), [0]))
        if self._slices == 1:
            return buffer[0]
        T.buffer_store(self._shared, buffer[0], [self._slice, self._lane])
        barrier()
        T.buffer_store(buffer, identity_of(kind, self._dtype), [0])
        with T.unroll(0, self._slices) as other:
            T.buffer_store(buffer, REDUCERS[kind](buffer[0], self._shared[other, self._lane]), [0])
        barrier()
        return buffer[0]

    def _register(self, value: Expr) -> Expr:
        cell = T.alloc_buffer((1,), self._dtype, scope="local")
        T.buffer_store(cell, value, [0])
        return cell[0]

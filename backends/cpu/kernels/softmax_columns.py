"""Softmax and LogSoftmax along a leading or middle axis: a lane is a column, the tile stays in cache between three passes."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.columns import Columns, for_columns
from graphopt.backends.cpu.kernels.row import COMBINE, NEUTRAL, bound
from graphopt.backends.specs.softmax import ColumnSoftmaxSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr, let


def emit(
    spec: ColumnSoftmaxSpec,
    lanes: int,
    vectors: int,
    parallel: bool = True,
    name: str = "softmax",
) -> tirx.PrimFunc:
    """Emits ``name(x, output)``, both ``(matrices, rows, columns)``.

    Args:
        spec: the problem.
        lanes: elements per vector.
        vectors: vectors of columns side by side.
        parallel: whether tiles are shared among threads.
        name: global symbol.
    """

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        def tile(c: Columns) -> None:
            _tile(spec, c, inputs[0], output)

        for_columns(spec.matrices, spec.columns, lanes, vectors, spec.types.sum, parallel, tile)

    shape = (spec.matrices, spec.rows, spec.columns)
    return build_prim_func(name, [("x", shape, spec.types.input)], [], (shape, spec.types.output), body)


def _tile(spec: ColumnSoftmaxSpec, c: Columns, x: View, output: View) -> None:
    top, total = c.accumulators(NEUTRAL["max"]), c.accumulators(0.0)
    with T.serial(0, spec.rows) as row:

        def larger(v: Expr, lane: Expr, column: Expr) -> None:
            T.buffer_store(top, COMBINE["max"](top[v, lane], x[c.matrix, row, column]), [v, lane])

        c.each(larger)
    with T.serial(0, spec.rows) as row:

        def power(v: Expr, lane: Expr, column: Expr) -> None:
            value = bound(lambda: m.exp_up_to_60(x[c.matrix, row, column] - top[v, lane]))
            if not spec.log:
                output.store(value, [c.matrix, row, column])
                value = output[c.matrix, row, column]
            T.buffer_store(total, total[v, lane] + value, [v, lane])

        c.each(power)

    def last(v: Expr, lane: Expr, _: Expr) -> None:
        value = bound(lambda: m.log(let(total[v, lane]))) if spec.log else tirx.const(1.0, c.dtype) / total[v, lane]
        T.buffer_store(total, value, [v, lane])

    c.each(last)
    with T.serial(0, spec.rows) as row:

        def write(v: Expr, lane: Expr, column: Expr) -> None:
            at = [c.matrix, row, column]
            if spec.log:
                output.store(x[c.matrix, row, column] - top[v, lane] - total[v, lane], at)
            else:
                output.store(output[c.matrix, row, column] * total[v, lane], at)

        c.each(write)

"""Reductions along a leading or middle axis: rows added up lane by lane, at the speed of reading them."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.columns import Columns, for_columns
from graphopt.backends.cpu.kernels.row import COMBINE, NEUTRAL, bound
from graphopt.backends.specs.reduction import ColumnSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.reduced import before, finished, kind_of


def emit(
    spec: ColumnSpec, lanes: int, vectors: int, parallel: bool = True, ahead: bool = False, name: str = "reduce"
) -> tirx.PrimFunc:
    """Emits ``name(x: (matrices, rows, columns), output: (matrices, columns))``.

    Args:
        spec: the problem.
        lanes: elements per vector.
        vectors: accumulators.
        parallel: whether tiles are shared among threads.
        ahead: whether rows are fetched before their use: for data outside of the cache.
        name: global symbol.
    """
    kind = kind_of(spec.op)

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        (x,) = inputs

        def reduce(c: Columns) -> None:
            total = c.accumulators(NEUTRAL[kind])
            with T.serial(0, spec.rows) as row:
                if ahead:
                    c.fetch(x, row)

                def add(v: tirx.Expr, lane: tirx.Expr, column: tirx.Expr) -> None:
                    value = bound(lambda: COMBINE[kind](total[v, lane], before(spec.op, x[c.matrix, row, column])))
                    T.buffer_store(total, value, [v, lane])

                c.each(add)
            c.each(
                lambda v, lane, column: output.store(finished(spec.op, total[v, lane], spec.rows), [c.matrix, column])
            )

        for_columns(spec.matrices, spec.columns, lanes, vectors, spec.types.sum, parallel, reduce)

    shape = (spec.matrices, spec.rows, spec.columns)
    result = (spec.matrices, spec.columns)
    return build_prim_func(name, [("x", shape, spec.types.input)], [], (result, spec.types.output), body)

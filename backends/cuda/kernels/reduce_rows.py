"""Reductions of rows that lie contiguously in memory, at the speed of reading them."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.kernels.cooperative_row import CooperativeRow, RowThreads, row_function
from graphopt.backends.specs.reduction import ReduceSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.reduced import before, finished, kind_of


def emit(spec: ReduceSpec, config: RowThreads, name: str = "reduce") -> tirx.PrimFunc:
    """Emits ``name(x: (rows, length), output: (rows,))``.

    Args:
        spec: the problem.
        config: how threads share rows.
        name: global symbol.
    """
    shape = (spec.rows, spec.length)

    def body(r: CooperativeRow, _: list[View], output: View) -> None:
        total = r.total(kind_of(spec.op).split()[0], lambda x: before(spec.op, x))
        r.only_one(lambda: output.store(finished(spec.op, total, spec.length), [r.row]))

    return row_function(name, [("x", shape, spec.types.input)], ((spec.rows,), spec.types.output), shape, config, body)

"""Reductions of rows that lie contiguously in memory, at the speed of reading them."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.row import Row, with_row
from graphopt.backends.specs.reduction import ReduceSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.reduced import before, finished, kind_of
from graphopt.backends.tensors.tensor import Expr


def emit(
    spec: ReduceSpec, lanes: int, parallel: bool = True, prefetch: bool = False, name: str = "reduce"
) -> tirx.PrimFunc:
    """Emits ``name(x: (rows, length), output: (rows,))``.

    Args:
        spec: the problem.
        lanes: elements per vector.
        parallel: whether rows are shared among threads.
        prefetch: whether a row is fetched while the one before is computed: for data outside of the cache.
        name: global symbol.
    """
    length = spec.length

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        (x,) = inputs

        def reduce(r: Row, row: Expr) -> None:
            ahead = (x, row + 1) if prefetch else None
            total = r.reduce(lambda i: before(spec.op, x[row, i]), kind_of(spec.op), ahead=ahead)
            output.store(finished(spec.op, total, length), [row])

        with (T.parallel if parallel else T.serial)(0, spec.rows) as row:
            with_row(length, lanes, spec.types.sum, lambda r: reduce(r, row))

    inputs = [("x", (spec.rows, length), spec.types.input)]
    return build_prim_func(name, inputs, [], ((spec.rows,), spec.types.output), body)

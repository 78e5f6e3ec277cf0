"""Softmax and LogSoftmax of rows: the maximum, the exponentials and their sum, the quotients; one pass over memory."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.kernels.cooperative_row import CooperativeRow, RowThreads, row_function
from graphopt.backends.specs.softmax import SoftmaxSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr


def emit(spec: SoftmaxSpec, config: RowThreads, name: str = "softmax") -> tirx.PrimFunc:
    """Emits ``name(x: (rows, length), output: (rows, length))``.

    A row with a NaN, or whose maximum is infinite, becomes NaN where the formula gives it, as in ONNX's definition.

    Args:
        spec: the problem.
        config: how threads share rows.
        name: global symbol.
    """
    shape = (spec.rows, spec.length)

    def body(r: CooperativeRow, _: list[View], output: View) -> None:
        top = r.total("max", lambda x: x)
        kept = not spec.log and r.keep(lambda x: m.exp(x - top))
        total = r.total("sum", (lambda x: x) if kept else (lambda x: m.exp(x - top)))
        last = r.scalar(m.log(total) if spec.log else tirx.const(1.0, r.dtype) / total)

        def value(x: Expr) -> Expr:
            if spec.log:
                return x - top - last
            return (x if kept else m.exp(x - top)) * last

        def write(first: Expr, element: Callable[[Expr], Expr]) -> None:
            r.write(output, [r.row], first, lambda e: value(element(e)))

        r.each(write)

    return row_function(name, [("x", shape, spec.types.input)], (shape, spec.types.output), shape, config, body)

"""Normalisation of rows by their own mean and variance, or root mean square; one pass over memory.

The variance takes a pass of its own over what threads keep: the mean of squares minus the squared mean cancels.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.cooperative_row import CooperativeRow, RowThreads, row_function
from graphopt.backends.specs.normalization import NormSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.tensor import Expr, as_expr, let


def emit(spec: NormSpec, config: RowThreads, name: str = "norm") -> tirx.PrimFunc:
    """Emits ``name(x: (rows, length), scale: (factors,), bias: (factors,), output: (rows, length))``, bias only if there is one.

    Args:
        spec: the problem.
        config: how threads share rows.
        name: global symbol.
    """
    shape = (spec.rows, spec.length)
    types = spec.types
    factors = [(label, (spec.factors,), types.weight) for label in ("scale", "bias")[: 1 + spec.bias]]

    def body(r: CooperativeRow, views: list[View], output: View) -> None:
        _row(spec, config, r, views[1:], output)

    return row_function(name, [("x", shape, types.input), *factors], (shape, types.output), shape, config, body)


def _row(spec: NormSpec, config: RowThreads, r: CooperativeRow, factors: list[View], output: View) -> None:
    def number(value: Expr) -> Expr:
        return tirx.const(float(value), r.dtype) if isinstance(value, (int, float)) else value.astype(r.dtype)

    count = number(r.length)
    mean = r.scalar(r.total("sum", lambda x: x) / count) if spec.centered else None

    def centered(x: Expr) -> Expr:
        return x if mean is None else x - mean

    def squared(x: Expr) -> Expr:
        d = let(centered(x))
        return d * d

    spread = r.total("sum", squared) / count
    inverse = r.scalar(number(1.0) / tirx.sqrt(spread + number(spec.epsilon)))

    def by_element(first: Expr, element: Callable[[Expr], Expr]) -> None:
        read = [T.alloc_buffer((config.width,), r.dtype, scope="local") for _ in factors]
        for view, to in zip(factors, read):
            r.read(view, [], first, to, as_expr(0))

        def value(e: Expr) -> Expr:
            scaled = centered(element(e)) * inverse * read[0][e]
            return scaled + read[1][e] if spec.bias else scaled

        r.write(output, [r.row], first, value)

    def by_channel(first: Expr, element: Callable[[Expr], Expr]) -> None:
        def value(e: Expr) -> Expr:
            part = tirx.floordiv(first + e, as_expr(spec.inner)) if spec.parts > 1 else 0
            channel = tirx.floormod(r.row * spec.parts + part, as_expr(spec.channels))
            scaled = centered(element(e)) * inverse * factors[0][channel]
            return scaled + factors[1][channel] if spec.bias else scaled

        r.write(output, [r.row], first, value)

    r.each(by_channel if spec.parts else by_element)

"""Normalisation of rows by their own mean and variance, or root mean square: passes over a cached row.

The variance takes a pass of its own: the mean of squares minus the squared mean cancels.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.row import Row, with_row
from graphopt.backends.cpu.kernels.softmax_rows import scalar
from graphopt.backends.specs.normalization import NormSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.tensors.tensor import Expr, let


def emit(
    spec: NormSpec, lanes: int, parallel: bool = True, prefetch: bool = False, name: str = "norm"
) -> tirx.PrimFunc:
    """Emits ``name(x: (rows, length), scale: (factors,), bias: (factors,), output: (rows, length))``, bias only if there is one.

    Args:
        spec: the problem.
        lanes: elements per vector.
        parallel: whether rows are shared among threads.
        prefetch: whether a row is fetched while the one before is computed: for data outside of the cache.
        name: global symbol.
    """

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        loop = T.parallel if parallel else T.serial
        with loop(0, spec.rows) as row:
            with_row(
                spec.length,
                lanes,
                spec.types.sum,
                lambda r: _row(spec, r, inputs[0], inputs[1:], output, row, prefetch),
            )

    shape = (spec.rows, spec.length)
    types = spec.types
    factors = [(label, (spec.factors,), types.weight) for label in ("scale", "bias")[: 1 + spec.bias]]
    return build_prim_func(name, [("x", shape, types.input), *factors], [], (shape, types.output), body)


def _row(spec: NormSpec, r: Row, x: View, factors: Sequence[View], output: View, row: Expr, prefetch: bool) -> None:
    dtype = spec.types.sum

    def number(value: Expr) -> Expr:
        return tirx.const(float(value), dtype) if isinstance(value, (int, float)) else value.astype(dtype)

    count = number(r.length)
    mean = scalar(r.reduce(lambda i: x[row, i]) / count) if spec.centered else None

    def centered(i: Expr) -> Expr:
        return x[row, i] if mean is None else x[row, i] - mean

    def squared(i: Expr) -> Expr:
        d = let(centered(i))
        return d * d

    spread = r.reduce(squared, ahead=(x, row + 1) if prefetch else None) / count
    inverse = scalar(number(1.0) / tirx.sqrt(spread + number(spec.epsilon)))
    scale = factors[0]
    if spec.parts == 0:

        def by_element(i: Expr) -> None:
            value = centered(i) * inverse * scale[i]
            output.store(value + factors[1][i] if spec.bias else value, [row, i])

        r.each(by_element)
        return
    with T.serial(0, spec.parts) as part:
        channel = tirx.floormod(row * spec.parts + part, spec.channels)
        factor = scalar(inverse * scale[channel])
        offset = scalar(factors[1][channel]) if spec.bias else None
        first = part * spec.inner

        def by_channel(i: Expr) -> None:
            value = centered(first + i) * factor
            output.store(value if offset is None else value + offset, [row, first + i])

        with_row(spec.inner, r.lanes, r.dtype, lambda p: p.each(by_channel))

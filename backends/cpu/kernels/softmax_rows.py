"""Softmax and LogSoftmax of rows: the maximum, the exponentials and their sum, the quotients; three passes over a cached row."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import ON_STACK
from graphopt.backends.cpu.kernels.row import Row, bound, with_row
from graphopt.backends.specs.softmax import SoftmaxSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr, let

_STACK_ELEMENTS = 8192
"""Longer rows are kept in memory that is asked for, which takes longer than a short row does."""


def emit(
    spec: SoftmaxSpec, lanes: int, parallel: bool = True, prefetch: bool = False, name: str = "softmax"
) -> tirx.PrimFunc:
    """Emits ``name(x: (rows, length), output: (rows, length))``.

    A row with a NaN, or whose maximum is infinite, becomes NaN where the formula gives it, as in ONNX's definition.

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
            write = _log_row if spec.log else _row
            with_row(spec.length, lanes, spec.types.sum, lambda r: write(r, inputs[0], output, row, prefetch))

    shape = (spec.rows, spec.length)
    return build_prim_func(name, [("x", shape, spec.types.input)], [], (shape, spec.types.output), body)


def _row(r: Row, x: View, output: View, row: Expr, prefetch: bool) -> None:
    top = r.reduce(lambda i: x[row, i], "max")

    kept = Kept(r, output, row)

    def keep(i: Expr, value: Expr) -> Expr:
        kept.store(i, value)
        return kept[i]

    total = r.reduce(lambda i: m.exp_up_to_60(x[row, i] - top), keep=keep, ahead=(x, row + 1) if prefetch else None)
    inverse = scalar(tirx.const(1.0, r.dtype) / total)
    r.each(lambda i: output.store(kept[i] * inverse, [row, i]))


def _log_row(r: Row, x: View, output: View, row: Expr, prefetch: bool) -> None:
    top = r.reduce(lambda i: x[row, i], "max")
    total = r.reduce(lambda i: m.exp_up_to_60(x[row, i] - top), ahead=(x, row + 1) if prefetch else None)
    log = scalar(bound(lambda: m.log(let(total))))
    r.each(lambda i: output.store(x[row, i] - top - log, [row, i]))


class Kept:
    """Elements of a row that are computed now and read again later: in the result itself, unless that would round them."""

    def __init__(self, r: Row, output: View, row: Expr) -> None:
        self._output, self._row = output, row
        self._scratch = None
        if output.type.is_narrow:
            on_stack = isinstance(r.length, int) and r.length <= _STACK_ELEMENTS
            annotations = ON_STACK if on_stack else {}
            self._scratch = T.alloc_buffer((r.length,), r.dtype, scope="local", annotations=annotations)

    def store(self, i: Expr, value: Expr) -> None:
        """Emits the keeping of element ``i``."""
        if self._scratch is None:
            self._output.store(value, [self._row, i])
        else:
            T.buffer_store(self._scratch, value, [i])

    def __getitem__(self, i: Expr) -> Expr:
        """Element ``i``."""
        return self._output[self._row, i] if self._scratch is None else self._scratch[i]


def scalar(value: Expr) -> Expr:
    """Emits ``value`` into a register of its own."""
    cell = T.alloc_buffer((1,), str(value.ty.dtype), scope="local", annotations=ON_STACK)
    T.buffer_store(cell, value, [0])
    return cell[0]

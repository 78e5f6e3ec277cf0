"""Dimensions known at run time only: computed once by a small kernel, checked there, and bound to a symbol.

Three sources. Elements of an integer tensor (``Value.binds``); a count that an operator's measure computes from its operands
(``NonZero``); and expressions over such symbols, which get a symbol of their own: TVM's passes take for ever on shapes full of
selections, and a negative extent has to be caught before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from graphopt.backends.base.program import Buffer
from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.common.builder import Output
from graphopt.backends.common.generic import GroupLowering
from graphopt.backends.common.index import i64, unflatten
from graphopt.backends.common.lower.registry import lookup_measure
from graphopt.backends.common.tensor import Expr, Tensor
from graphopt.errors import InternalError, UnsupportedOpError
from graphopt.ir.dims import Apply, Dim, Symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import TensorType

CELLS = 1024
"""Most functions in the dimensions of one kernel."""


def integers(name: str, count: int) -> Buffer:
    """A new vector of ``count`` int64."""
    return Buffer(name, TensorType(DType.i64, (count,)), (count,))


def elements_kernel(lowering: GroupLowering, value: Value) -> tuple[Any, list[Value], list[str]]:
    """The kernel ``(value, vector)`` that copies an integer tensor to a vector of int64."""
    tensor = lowering.operand(value)
    count = value.tensor.num_elements
    assert count is not None
    flat = Tensor((count,), "int64", lambda i: i64(tensor(*unflatten(i, tensor.shape))))
    return _finish(lowering, flat, count)


def measure_kernel(lowering: GroupLowering, node: Node, count: int) -> tuple[Any, list[Value], list[str]] | None:
    """The kernel that computes the dimensions of a node's results from its operands, None if the operator has none."""
    measure = lookup_measure(node.op, node.domain)
    if measure is None:
        return None
    found = measure(lowering.context(node))
    if found.shape != (count,):
        raise InternalError(f"{node.op} measures {found.shape} dimensions where {count} are open", node=node.label)
    return _finish(lowering, found, count)


def _finish(lowering: GroupLowering, tensor: Tensor, count: int) -> tuple[Any, list[Value], list[str]]:
    out = tirx.decl_buffer([i64(count)], "int64", "dims")
    lowering.builder.emit([Output(tensor, out)])
    names, symbols = lowering.symbol_params()
    inputs = list(lowering.buffers)
    return lowering.builder.finish([*lowering.buffers.values(), out, *symbols], "dims"), inputs, names


def dims_kernel(
    dims: Sequence[Dim], equal: Sequence[tuple[Dim, Dim, str]], where: str, extents: Container[Dim]
) -> tuple[Any, list[str]]:
    """The kernel ``(vector, *symbols)`` that computes dimensions, refusing negative ones and broken constraints.

    Args:
        equal: pairs that must agree, with the reason.
        where: what the dimensions belong to, for messages.
        extents: those that must not be negative.
    """
    writer = _Writer(where)
    symbols, checks = writer.symbols, writer.statements
    out = tirx.decl_buffer([i64(max(len(dims), 1))], "int64", "dims")
    statements: list[Any] = []
    for a, b, why in equal:
        left, right = writer.expression(a, False), writer.expression(b, False)
        checks.append(require(tirx.EQ(left, right), f"{why}: {a} and {b} differ for these inputs"))
    for n, d in enumerate(dims):
        value = writer.expression(d, False)
        if d in extents:
            checks.append(require(value >= 0, f"a dimension of {where} is negative for these inputs: {d}"))
        statements.append(tirx.BufferStore(out, value, [i64(n)]))
    body = [tirx.AllocBuffer(writer.cells), *checks, *statements]
    names = sorted(symbols)
    func = tirx.PrimFunc([out, *(symbols[n] for n in names)], tirx.SeqStmt(body))
    return func.with_attr({"global_symbol": "dims", "tirx.noalias": True, "s_tir": True}), names


def require(condition: Expr, message: str) -> Any:
    """A check at run time."""
    text = tvm.ir.expr.StringImm
    return tirx.AssertStmt(condition, text("ValueError"), [text(message)])


class _Writer:
    """Dimensions as expressions in which no branch that isn't taken can trap.

    The value of every function goes to memory: TVM's simplifier takes exponential time on nested selections.
    """

    def __init__(self, where: str) -> None:
        self.symbols: dict[str, Any] = {}
        self.statements: list[Any] = []
        self.where = where
        self.cells = tirx.decl_buffer([i64(CELLS)], "int64", "cells")
        self._known: dict[tuple[Apply, bool], Expr] = {}

    def expression(self, dim: Dim, guarded: bool) -> Expr:
        if isinstance(dim, int):
            return i64(dim)
        total: Expr = None
        for monomial, coefficient in dim.terms:
            term: Expr = i64(coefficient)
            for atom in monomial:
                term = term * (self._symbol(atom) if isinstance(atom, Symbol) else self._apply(atom, guarded))
            total = term if total is None else total + term
        return total

    def _symbol(self, atom: Symbol) -> Expr:
        if atom.name not in self.symbols:
            clean = "".join(ch if ch.isalnum() else "_" for ch in atom.name)
            self.symbols[atom.name] = tirx.Var(f"s_{clean}", "int64")
        return self.symbols[atom.name]

    def _apply(self, atom: Apply, guarded: bool) -> Expr:
        if (atom, guarded) not in self._known:
            if len(self._known) == CELLS:
                raise UnsupportedOpError(
                    f"the dimensions of {self.where} depend on data in too many ways",
                    hint="make the operands that decide shapes constants, or fix the input shapes with --shape",
                )
            value = self._evaluate(atom, guarded)
            at = [i64(len(self._known))]
            self.statements.append(tirx.BufferStore(self.cells, value, at))
            self._known[atom, guarded] = tirx.BufferLoad(self.cells, at)
        return self._known[atom, guarded]

    def _evaluate(self, atom: Apply, guarded: bool) -> Expr:
        a, b, *rest = (self.expression(d, guarded or atom.fn == "where") for d in atom.args)
        if atom.fn in ("floordiv", "mod"):
            if not isinstance(atom.args[1], int):
                if not guarded:
                    self.statements.append(
                        require(tirx.NE(b, i64(0)), f"a dimension of {self.where} divides by zero: {atom}")
                    )
                b = tirx.Select(tirx.EQ(b, i64(0)), i64(1), b)
            return tirx.floordiv(a, b) if atom.fn == "floordiv" else tirx.floormod(a, b)
        if atom.fn in ("max", "min"):
            return tirx.max(a, b) if atom.fn == "max" else tirx.min(a, b)
        if atom.fn == "eq":
            return tirx.Select(tirx.EQ(a, b), i64(1), i64(0))
        if atom.fn == "lt":
            return tirx.Select(tirx.LT(a, b), i64(1), i64(0))
        return tirx.Select(tirx.NE(a, i64(0)), b, rest[0])

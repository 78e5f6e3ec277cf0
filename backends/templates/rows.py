"""Tensors seen as rows of trailing axes: what templates of softmax, normalisations and reductions have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.kernel_types import computed_in_single, types_of
from graphopt.backends.templates.reading import plain_prologue, row_of
from graphopt.backends.templates.writing import converted_result
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.graph import Value


@dataclass(frozen=True)
class Matrix:
    """A tensor seen as rows of trailing axes.

    Attributes:
        shape: as the kernel's parameters are declared.
        rows, length: products of leading and trailing axes: an int, a variable, or a product of these.
        defined: variables that stand for products, with their values.
    """

    shape: tuple[Expr, ...]
    rows: Expr
    length: Expr
    defined: dict[Any, Expr]


def matrix(shape: Sequence[Dim], axis: int) -> Matrix:
    """``shape`` cut in two at ``axis``."""
    dims: dict[Dim, Expr] = {}
    for d in shape:
        if isinstance(d, SymExpr):
            dims.setdefault(d, tirx.Var(f"d{len(dims)}", "int64"))
    nd = tuple(dims.get(d, d) for d in shape)
    defined: dict[Any, Expr] = {}

    def merged(part: Sequence[Expr], name: str) -> Expr:
        if all(isinstance(d, int) for d in part):
            return math.prod(part)
        if len(part) == 1:
            return part[0]
        total: Expr = 1
        for d in part:
            total = total * d
        defined[var := tirx.Var(name, "int64")] = total
        return var

    return Matrix(nd, merged(nd[:axis], "rows"), merged(nd[axis:], "length"), defined)


def flattened(function: Any, m: Matrix) -> Any:
    """A kernel over ``(rows, length)`` with its first and last parameter in the tensor's own shape."""
    return with_shapes(function, {0: m.shape, len(function.params) - 1: m.shape}, m.defined)


def single_node(call: KernelCall, data: int | None = None) -> str | None:
    """Why a group is not one node over plain data that the row kernels take, None if it is; they may round what they store.

    Args:
        call: the group.
        data: how many of the node's inputs are data; by default all.
    """
    node = call.group.anchor
    x = node.inputs[0]
    assert x is not None
    result = converted_result(call.group)
    if call.group.outputs != [result]:
        return "more than one result"
    reason = plain_prologue(call)
    if reason is not None:
        return reason
    if not computed_in_single(*node.inputs[:data], node.out, result):
        return "needs float32"
    if any(not call.layout(v).is_plain for v in (*call.group.inputs, *call.group.outputs)):
        return "needs plain layouts"
    if any(d == 0 for d in x.shape):
        return "no elements"
    return None


def row_types(call: KernelCall, weight: Value | None = None) -> KernelTypes:
    """The types of a kernel over the first operand of its only node."""
    node = call.group.anchor
    x = node.inputs[0]
    assert x is not None
    return types_of(call, x, None if weight is None else row_of(call, weight))


def nominal_elements(call: KernelCall) -> int:
    """Elements of the first operand of the only node, with the extents that are assumed where they are symbolic."""
    x = call.group.anchor.inputs[0]
    assert x is not None
    return math.prod(call.nominal(d) for d in x.shape)

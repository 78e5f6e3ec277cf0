"""Leading dimensions of a matrix product as the rows of one matrix."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.graph import Node
from graphopt.ops.context import attr


def is_turned(node: Node) -> bool:
    """Whether the second operand has a row for each column of the result."""
    return node.op == "Gemm" and bool(attr(node, "transB"))


def product(dims: Sequence[Expr]) -> Expr:
    """How many rows there are."""
    total: Expr = 1
    for d in dims:
        total = total * d
    return total


def unflattened(row: Expr, extents: Sequence[Expr]) -> list[Expr]:
    """The place of a row along the leading dimensions."""
    index: list[Expr] = []
    for extent in reversed(extents[1:]):
        index.append(tirx.floormod(row, extent))
        row = tirx.floordiv(row, extent)
    return [row, *reversed(index)]

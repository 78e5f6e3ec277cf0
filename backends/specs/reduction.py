"""Reductions along rows and columns."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.types import SINGLE, KernelTypes


@dataclass(frozen=True)
class ReduceSpec:
    """A reduction of the last axis of a matrix.

    Attributes:
        op: the operator of ai.onnx.
        rows, length: ints or symbolic.
        types: element types of data, sums and result.
    """

    op: str
    rows: tirx.Expr | int
    length: tirx.Expr | int
    types: KernelTypes = SINGLE


@dataclass(frozen=True)
class ColumnSpec:
    """A reduction of the middle axis of ``(matrices, rows, columns)``.

    Attributes:
        op: the operator of ai.onnx.
        matrices, rows: extents, ints or symbolic.
        columns: extent.
        types: element types of data, sums and result.
    """

    op: str
    matrices: tirx.Expr | int
    rows: tirx.Expr | int
    columns: int
    types: KernelTypes = SINGLE

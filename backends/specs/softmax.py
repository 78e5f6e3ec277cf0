"""Softmax of rows and of columns."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.types import SINGLE, KernelTypes


@dataclass(frozen=True)
class SoftmaxSpec:
    """Softmax over the last axis of a matrix.

    Attributes:
        rows: an int or a symbolic ``tirx.Var``.
        length: elements of a row, likewise.
        log: the logarithm of the result instead.
        types: element types of data, sums and result.
    """

    rows: tirx.Expr | int
    length: tirx.Expr | int
    log: bool = False
    types: KernelTypes = SINGLE


@dataclass(frozen=True)
class ColumnSoftmaxSpec:
    """Softmax over the middle axis of ``(matrices, rows, columns)``.

    Attributes:
        matrices, rows, columns: extents.
        log: the logarithm of the result instead.
        types: element types of data, sums and result.
    """

    matrices: int
    rows: int
    columns: int
    log: bool = False
    types: KernelTypes = SINGLE

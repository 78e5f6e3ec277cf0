"""Weights as rows along what is summed over: elements of the window, then channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.packing import Packing
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.ir.graph import Array

_COLUMNS = 8
"""What the number of packed rows is a multiple of."""


def packed_shape(spec: ImplicitGemmSpec, config: GemmConfig) -> tuple[int, int, int]:
    """Shape of packed weights: groups, output channels of a group, products of a sum; the last two filled up with zeros."""
    return spec.groups, -(-spec.columns // _COLUMNS) * _COLUMNS, -(-spec.depth // config.step) * config.step


@dataclass(frozen=True)
class RowPacking(Packing):
    """OI[D H W] weights, or a matrix of (columns, depth), as `packed_shape` says.

    Attributes:
        packed_to: the shape.
        type: of packed elements, which holds all that the constant's type does.
        rounds: whether float32 is rounded to tf32, ties away from zero as ``cvt.rna`` does.
        turned: whether the constant is a matrix of (depth, columns).
    """

    packed_to: tuple[int, int, int]
    type: ElementType
    rounds: bool = False
    turned: bool = False

    def packed(self, array: Array) -> Array:
        """The rows."""
        rows = np.moveaxis(array.T if self.turned else array, 1, -1)
        groups = self.packed_to[0]
        out = np.zeros(self.packed_to, self.type.dtype.numpy)
        rows = rows.reshape(groups, rows.shape[0] // groups, -1)
        out[:, : rows.shape[1], : rows.shape[2]] = rows
        if self.rounds:
            bits = out.view(np.uint32)
            finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
            np.add(bits, np.uint32(0x1000), out=bits, where=finite)
            np.bitwise_and(bits, np.uint32(0xFFFFE000), out=bits, where=finite)
        return out

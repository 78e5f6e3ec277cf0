"""Weights as rows along what is summed over: elements of the window, then channels."""

from __future__ import annotations

import math
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
    """Shape of packed weights: groups (and phases), output channels, products of a sum; the last two filled up with zeros."""
    return spec.parts, -(-spec.columns // _COLUMNS) * _COLUMNS, -(-spec.depth // config.step) * config.step


@dataclass(frozen=True)
class RowOrder:
    """How rows lie in a constant.

    Attributes:
        axis: along which output channels are: 0 of OI[D H W] or a transposed matrix, 1 of a matrix or a transposed convolution.
        phases: strides of a transposed convolution, IO[D H W]; none for others.
        leads: its padding before the result.
    """

    axis: int = 0
    phases: tuple[int, ...] = ()
    leads: tuple[int, ...] = ()


@dataclass(frozen=True)
class RowPacking(Packing):
    """Weights as `packed_shape` says.

    Attributes:
        packed_to: the shape.
        type: of packed elements, which holds all that the constant's type does.
        groups: of channels.
        rounds: whether float32 is rounded to tf32, ties away from zero as ``cvt.rna`` does.
        order: of the constant.
    """

    packed_to: tuple[int, int, int]
    type: ElementType
    groups: int = 1
    rounds: bool = False
    order: RowOrder = RowOrder()

    def packed(self, array: Array) -> Array:
        """The rows."""
        out = np.zeros(self.packed_to, self.type.dtype.numpy)
        if self.order.phases:
            self._fill_phases(array, out)
        else:
            rows = np.moveaxis(array.T if self.order.axis else array, 1, -1)
            rows = rows.reshape(self.groups, rows.shape[0] // self.groups, -1)
            out[:, : rows.shape[1], : rows.shape[2]] = rows
        if self.rounds:
            bits = out.view(np.uint32)
            finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
            np.add(bits, np.uint32(0x1000), out=bits, where=finite)
            np.bitwise_and(bits, np.uint32(0xFFFFE000), out=bits, where=finite)
        return out

    def _fill_phases(self, array: Array, out: Array) -> None:
        """The elements of the kernel that each phase meets, in the order in which its windows do: the last one first."""
        groups, strides, leads = self.groups, self.order.phases, self.order.leads
        kernel = array.shape[2:]
        longest = [-(-k // s) for k, s in zip(kernel, strides)]
        grouped = array.reshape(groups, array.shape[0] // groups, *array.shape[1:])
        by_phase = out.reshape(groups, math.prod(strides), *out.shape[1:])
        for number, phase in enumerate(np.ndindex(*strides)):
            firsts = [(p + lead) % s for p, lead, s in zip(phase, leads, strides)]
            steps = tuple(slice(first, None, stride) for first, stride in zip(firsts, strides))
            met = grouped[(slice(None),) * 3 + steps]
            window = np.zeros((*met.shape[:3], *longest), array.dtype)
            window[tuple(slice(0, extent) for extent in met.shape)] = met
            window = np.flip(window, tuple(range(3, window.ndim)))
            rows = np.moveaxis(window, 1, -1).reshape(groups, window.shape[2], -1)
            by_phase[:, number, : rows.shape[1], : rows.shape[2]] = rows

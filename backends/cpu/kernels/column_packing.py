"""The right-hand side of matrix products in panels of columns."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.packing import Packing
from graphopt.backends.templates.packed_array import aligned_zeros, for_each, interleaved
from graphopt.ir.graph import Array


@dataclass(frozen=True)
class ColumnPacking(Packing):
    """B, of any strides, as (panels, K, columns of a panel), the last panels filled up with zero columns.

    Attributes:
        width: columns of a panel.
        turned: whether the constant is B's transpose.
        together: how many steps of K lie side by side in 32 bits (`interleaved`).
        streams: what the number of panels is a multiple of.
    """

    width: int
    turned: bool = False
    together: int = 1
    streams: int = 1

    def packed(self, array: Array) -> Array:
        """One panel at a time: a transposed B of hundreds of megabytes is read where it lies in caches."""
        b, width = array.T if self.turned else array, self.width
        panels = -(-b.shape[1] // (width * self.streams)) * self.streams
        packed = aligned_zeros((panels, b.shape[0], width), b.dtype)

        def fill(panel: int) -> None:
            columns = b[:, panel * width : (panel + 1) * width]
            packed[panel, :, : columns.shape[1]] = columns

        for_each(fill, panels, packed.nbytes)
        return interleaved(packed, self.together)

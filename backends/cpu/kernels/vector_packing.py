"""Weights with a vector of output channels innermost, as kernels that slide over channel blocks read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.packing import Packing
from graphopt.ir.graph import Array


@dataclass(frozen=True)
class VectorPacking(Packing):
    """(O, I / groups, height, width) weights as (O / lanes, I / groups, height, width, lanes).

    Attributes:
        lanes: channels of a vector, a divisor of all of them.
    """

    lanes: int

    def packed(self, array: Array) -> Array:
        """Turned in one copy."""
        return np.ascontiguousarray(np.moveaxis(array.reshape(-1, self.lanes, *self.shape[1:]), 1, -1))

"""Weights of depthwise convolutions: integers in the type that they are multiplied in, as they are few and read for every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.packing import Packing
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.ir.graph import Array


def factor_type(spec: Conv2dSpec) -> ElementType:
    """In which packed weights are stored."""
    return spec.types.accumulator if spec.sums_integers else spec.types.weight


@dataclass(frozen=True)
class FilterPacking(Packing):
    """(C, 1, kernel height, kernel width) weights as (C, kernel height, kernel width).

    Attributes:
        type: of the packed weights.
    """

    type: ElementType

    def packed(self, array: Array) -> Array:
        """Without the axis of one."""
        return np.ascontiguousarray(array[:, 0].astype(self.type.dtype.numpy, copy=False))


@dataclass(frozen=True)
class FilterVectorPacking(Packing):
    """(C, 1, kernel height, kernel width) weights as (C / lanes, elements, lanes).

    Attributes:
        type: of the packed weights.
        lanes: channels of a vector, a divisor of all of them.
        summed: whether the sum of a filter follows its elements, by which products with data are corrected whose zero point is
            left in.
    """

    type: ElementType
    lanes: int
    summed: bool

    def packed(self, array: Array) -> Array:
        """Turned in one copy."""
        taps = array.reshape(array.shape[0], -1).astype(self.type.dtype.numpy, copy=False)
        if self.summed:
            taps = np.concatenate([taps, taps.sum(1, keepdims=True)], axis=1, dtype=taps.dtype)
        return np.ascontiguousarray(taps.reshape(-1, self.lanes, taps.shape[1]).swapaxes(1, 2))

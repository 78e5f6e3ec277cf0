"""The constants of a program: each packing of a weight is made once, and equal arrays are stored once, whoever reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.template import Computed, Operand, Packed, packed_array
from graphopt.backends.program.program import Buffer
from graphopt.ir.graph import Array

_SAMPLES = 1024
"""Bytes of an array that are looked at before all of them are compared."""


class Constants:
    """What a program has stored so far.

    Args:
        outer: those of the program around it; what they have packed isn't packed again.
    """

    def __init__(self, outer: Constants | None = None) -> None:
        self._packed: dict[Packed | Computed, Array] = {} if outer is None else outer._packed
        self._stored: dict[tuple[np.dtype[Any], tuple[int, ...], bytes], list[Buffer]] = {}
        self._known: dict[int, tuple[Array, Buffer]] = {}

    def array(self, operand: Operand) -> Array:
        """The elements of a constant that is packed or computed, or of an array that was made for a kernel."""
        if not isinstance(operand, (Packed, Computed)):
            assert isinstance(operand, np.ndarray)
            return operand
        if operand not in self._packed:
            self._packed[operand] = packed_array(operand)
        return self._packed[operand]

    def buffer(self, array: Array, make: Callable[[], Buffer]) -> Buffer:
        """The buffer that holds what ``array`` holds, bit for bit: one that is there, or the one that ``make`` makes.

        Few arrays are read for it: those of one type and shape differ in a few bytes taken here and there, as a rule.
        """
        if id(array) in self._known:
            return self._known[id(array)][1]
        flat = _bytes(array)
        sample = flat[:: max(1, len(flat) // _SAMPLES)].tobytes()
        alike = self._stored.setdefault((array.dtype, array.shape, sample), [])
        found = next((b for b in alike if b.data is not None and np.array_equal(_bytes(b.data), flat)), None)
        if found is None:
            found = make()
            alike.append(found)
        self._known[id(array)] = array, found  # the array stays, so its id does
        return found


def _bytes(array: Array) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

"""Arrays of element types that neither TVM nor DLPack takes from numpy: kernels get and give their bits, as unsigned integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def travels_as_bits(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of a type, one of those that another package than numpy defines, are handed over as bits."""
    return dtype.isbuiltin != 1 and dtype.kind not in "OUS"


def bits_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that kernels know for it: itself, or that of its bits."""
    return np.dtype(f"u{dtype.itemsize}") if travels_as_bits(dtype) else dtype


def as_bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as kernels take it: itself, or a view of its bits."""
    return array.view(f"u{array.dtype.itemsize}") if travels_as_bits(array.dtype) else array

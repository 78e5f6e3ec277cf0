"""Memory of packed weights: aligned as kernels expect their operands, so that a loaded model uses it where it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes."""


def aligned_zeros(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Zeros of that shape on a cache line's start (numpy alone aligns to 16 bytes)."""
    size = int(np.prod(shape, dtype=np.int64)) * 4
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


def aligned_copy(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A contiguous copy of an array of any strides."""
    copy = aligned_zeros(array.shape)
    copy[...] = array
    return copy

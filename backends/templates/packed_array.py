"""Memory of packed weights: aligned as kernels expect their operands, so that a loaded model uses it where it is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.host import default_threads
from graphopt.ir.graph import Array

ALIGNMENT = 64
"""Bytes."""
_WORTH_THREADS = 16 << 20
_PIECES = 32
"""So many of a copy's parts share it among threads evenly; more cost time to no end."""


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Zeros of that shape and type on a cache line's start (numpy alone aligns to 16 bytes)."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def aligned_copy(array: Array) -> Array:
    """A contiguous copy of an array of any strides."""
    copy = aligned_zeros(array.shape, array.dtype)
    axes = 1 if array.shape[:1] >= (_PIECES,) else 2
    places = list(np.ndindex(array.shape[:axes]))

    def work(i: int) -> None:
        copy[places[i]] = array[places[i]]

    for_each(work, len(places), copy.nbytes)
    return copy


def for_each(work: Callable[[int], None], count: int, nbytes: int) -> None:
    """Calls ``work`` with 0 ... count - 1, on several threads where the bytes written are worth it.

    First touches of fresh pages are most of the time then, and numpy lets other threads run while it copies.
    """
    if nbytes < _WORTH_THREADS or count < 2:
        for i in range(count):
            work(i)
        return
    with ThreadPoolExecutor(min(default_threads(), 8)) as pool:
        for _ in pool.map(work, range(count)):
            pass


def interleaved(array: Array, group: int) -> Array:
    """Rows in groups of ``group``, the elements of a column side by side as one integer.

    Args:
        array: of shape (..., rows, columns); ``group`` elements, whose number divides the rows, fill 16 or 32 bits.
        group: 2 or 4; 1 leaves the array as it is.
    """
    if group == 1:
        return array
    *lead, rows, columns = array.shape
    together = aligned_copy(array.reshape(*lead, rows // group, group, columns).swapaxes(-1, -2))
    return together.view(f"int{8 * group * array.itemsize}").reshape(*lead, rows // group, columns)

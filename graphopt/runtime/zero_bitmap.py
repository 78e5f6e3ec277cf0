"""Constants with many zeros, stored as a bitmap and the other elements: exact, and a loop of five lines in C.

A constant of ``count`` elements of ``width`` bytes, ``kept`` of which are not zero, is stored as::

    bitmap: ceil(count / 8) bytes, then zeros up to a multiple of 64
    values: kept elements of width bytes, in order

Bit ``i % 8`` (1 << (i % 8)) of byte ``i / 8`` is set where element ``i`` is among the values; bits past the last element are
zero. An element is zero when all its bits are, so -0.0 is a value. In C::

    for (i = 0; i < count; ++i)
        if (bitmap[i / 8] >> (i % 8) & 1) memcpy(out + i * width, values, width), values += width;

What is read is not trusted: a bitmap must lie in the file, so the expanded constants take at most 64 times the file's bytes, and
every bitmap is counted before memory for any of them is asked for. Pages with nothing but zeros are never touched.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.host import default_threads

ALIGNMENT = 64
"""Bytes: of the values from the start of the bitmap, and of expanded constants in memory."""
MAX_PART = (3, 4)
"""A constant is compressed when the result takes at most this part of its bytes ..."""
LEAST_SAVING = 4096
"""... and at least so many fewer: mapped pages are worth more than a page saved."""

_RANGE = 1 << 22
"""Elements that one thread expands at a time; a multiple of 8."""
_BLOCK = 1 << 16
"""Elements whose positions are held at a time: half a megabyte, in cache."""

Buffer: TypeAlias = mmap.mmap | bytes
Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Compressed:
    """A constant in its stored form.

    Attributes:
        bitmap: uint8 [ceil(count / 8)].
        values: words as wide as an element, [kept].
    """

    bitmap: npt.NDArray[np.uint8]
    values: Array

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return bitmap_span(self.bitmap.size) + self.values.nbytes

    def chunks(self) -> Iterator[memoryview | bytes]:
        """The bytes to write."""
        yield self.bitmap.data
        yield bytes(bitmap_span(self.bitmap.size) - self.bitmap.size)
        yield self.values.view(np.uint8).data


@dataclass(frozen=True)
class Placed:
    """A compressed constant in a file.

    Attributes:
        at: where it starts in the buffer, in bytes.
        count: elements.
        kept: elements that are stored.
        width: bytes of an element: 1, 2, 4 or 8.
    """

    at: int
    count: int
    kept: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        return self.values_at - self.at + self.kept * self.width

    @property
    def values_at(self) -> int:
        """Where its values start."""
        return self.at + bitmap_span(-(-self.count // 8))

    def words(self) -> np.dtype[Any]:
        """The type that its elements are moved as."""
        return np.dtype(f"<u{self.width}")


def compress(array: Array) -> Compressed | None:
    """The stored form of a contiguous array; None when that doesn't save enough."""
    width = array.itemsize
    if width not in (1, 2, 4, 8) or array.nbytes < LEAST_SAVING:
        return None
    words = array.reshape(-1).view(f"<u{width}")
    kept = int(np.count_nonzero(words))
    stored = bitmap_span(-(-words.size // 8)) + kept * width
    if stored * MAX_PART[1] > array.nbytes * MAX_PART[0] or array.nbytes - stored < LEAST_SAVING:
        return None
    mask = words != 0
    return Compressed(np.packbits(mask, bitorder="little"), words[mask])


def expand(data: Buffer, placed: Sequence[Placed]) -> list[Array]:
    """The constants' bytes, each uint8 [count * width], read-only and aligned, in memory that starts as zeros.

    Args:
        data: the file; every constant lies inside it, and none overlaps another.
        placed: where they are.

    Raises:
        ValueError: a bitmap doesn't fit its constant.
        MemoryError: there is no room for the constants.
    """
    starts: list[int] = []
    total = 0
    for constant in placed:
        starts.append(total)
        total += -(-constant.count * constant.width // ALIGNMENT) * ALIGNMENT
    work = [_Range(c, base, *r) for c, base in zip(placed, starts) for r in _ranges(data, c)]
    if not total:
        return [np.empty(0, np.uint8) for _ in placed]
    memory = _zeros(total)
    threads = min(len(work), default_threads())
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda r: r.fill(data, memory), work))
    else:
        for r in work:
            r.fill(data, memory)
    whole = np.frombuffer(memory, np.uint8)
    whole.flags.writeable = False
    return [whole[base : base + c.count * c.width] for c, base in zip(placed, starts)]


def forget_pages(data: Buffer, placed: Sequence[Placed]) -> None:
    """Tell the system that the stored form is not needed in memory any more, where it can be told."""
    if isinstance(data, bytes) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    for c in placed:
        start, end = -(-c.at // mmap.PAGESIZE) * mmap.PAGESIZE, (c.at + c.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            data.madvise(mmap.MADV_DONTNEED, start, end - start)


def bitmap_span(size: int) -> int:
    """Bytes from the start of a bitmap of ``size`` bytes to the values."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class _Range:
    """Consecutive elements of a constant.

    Attributes:
        base: where the constant starts in memory.
        first, end: elements; the first is a multiple of 8.
        rank: how many values come before.
    """

    constant: Placed
    base: int
    first: int
    end: int
    rank: int

    def fill(self, data: Buffer, memory: mmap.mmap) -> None:
        """Put the values in their places."""
        c, rank = self.constant, self.rank
        values = np.frombuffer(data, c.words(), c.kept, c.values_at)
        out = np.frombuffer(memory, c.words(), c.count, self.base)
        for first in range(self.first, self.end, _BLOCK):
            end = min(first + _BLOCK, self.end)
            bits = np.frombuffer(data, np.uint8, (end - first + 7) // 8, c.at + first // 8)
            index = np.flatnonzero(np.unpackbits(bits, count=end - first, bitorder="little").view(np.bool_))
            out[first:end][index] = values[rank : rank + index.size]
            rank += index.size


def _ranges(data: Buffer, constant: Placed) -> list[tuple[int, int, int]]:
    """First and last element of pieces of a constant and the number of values before each.

    Raises:
        ValueError: the bitmap says otherwise than the constant's counts.
    """
    found, rank = [], 0
    for first in range(0, constant.count, _RANGE):
        end = min(first + _RANGE, constant.count)
        found.append((first, end, rank))
        piece = data[constant.at + first // 8 : constant.at + (end + 7) // 8]
        rank += int.from_bytes(piece, "little").bit_count()
        if end % 8 and piece[-1] >> end % 8:
            raise ValueError("a bitmap has bits past its constant's end")
    if rank != constant.kept:
        raise ValueError(f"a bitmap has {rank} bits where {constant.kept} elements are stored")
    return found


def _zeros(size: int) -> mmap.mmap:
    """Memory of the process's own that takes room where it is written.

    Raises:
        MemoryError: the system refuses.
    """
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # huge pages made it half as fast
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"no room for {size} bytes of constants") from error

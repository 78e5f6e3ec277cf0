"""The constants of an artefact: how the manifest describes them, their bytes, and the arrays made of these."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from graphopt.runtime.zero_bitmap import ALIGNMENT, Compressed, Placed, compress, expand, forget_pages

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in (
        *("bool", "float16", "float32", "float64", "complex64", "complex128"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
} | {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
}


@dataclass(frozen=True)
class PackedConstants:
    """Constants in the form in which they are stored.

    Attributes:
        entries: of the manifest, JSON-ready.
        size: bytes of the section.
    """

    entries: list[dict[str, Any]]
    size: int
    _stored: list[Array | Compressed]

    @property
    def has_compressed(self) -> bool:
        """Whether any is stored as bitmap and values."""
        return any(isinstance(constant, Compressed) for constant in self._stored)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes of the section."""
        for constant in self._stored:
            if isinstance(constant, Compressed):
                yield from constant.chunks()
            else:
                yield constant.reshape(-1).view(np.uint8).data  # no copy; not every type has a buffer of its own
            yield bytes(-constant.nbytes % ALIGNMENT)


def pack_constants(constants: Sequence[Array], compressed: bool) -> PackedConstants:
    """Lay constants out one after the other.

    Args:
        constants: of types in ``DTYPES``.
        compressed: store those with many zeros as bitmap and values.

    Raises:
        ValueError: an array of another type.
    """
    entries: list[dict[str, Any]] = []
    stored: list[Array | Compressed] = []
    size = 0
    for constant in constants:
        array = _little_endian(constant)
        small = compress(array) if compressed else None
        entry = {"dtype": array.dtype.name, "shape": list(np.shape(constant)), "offset": size, "nbytes": array.nbytes}
        entries.append(entry if small is None else {**entry, "encoding": "bitmap", "kept": small.values.size})
        stored.append(array if small is None else small)
        size = aligned(size + stored[-1].nbytes)
    return PackedConstants(entries, size, stored)


@dataclass(frozen=True)
class Entry:
    """A constant as the manifest describes it.

    Attributes:
        offset: in the section, bytes.
        kept: elements that are stored, when it is compressed.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    kept: int | None

    def placed(self, section: int) -> Placed | None:
        """Where it is if it is compressed, in a file whose constants start at ``section``."""
        if self.kept is None:
            return None
        return Placed(section + self.offset, math.prod(self.shape), self.kept, self.dtype.itemsize)


def parse_entries(listed: Iterable[dict[str, Any]], section_size: int) -> list[Entry]:
    """The constants, which must fill their section one after the other: none can be told to lie upon another.

    Raises:
        KeyError, TypeError, ValueError: they don't, or the manifest is malformed.
    """
    entries, at = [], 0
    for item in listed:
        dtype, shape, offset = DTYPES[item["dtype"]], tuple(map(natural, item["shape"])), natural(item["offset"])
        entry = Entry(dtype, shape, offset, _kept(item, dtype, shape))
        placed, nbytes = entry.placed(0), math.prod(shape) * dtype.itemsize
        stored = nbytes if placed is None else placed.nbytes
        if nbytes != item["nbytes"] or offset != at or offset + stored > section_size:
            raise ValueError(f"constant of shape {shape} at {offset} doesn't fit")
        entries.append(entry)
        at = aligned(offset + stored)
    if at != section_size:
        raise ValueError(f"constants end at {at} of {section_size}")
    return entries


def constant_arrays(data: mmap.mmap | bytes, section: int, entries: Sequence[Entry]) -> tuple[Array, ...]:
    """Read-only arrays on the file, or in memory where they are compressed.

    Args:
        data: the file.
        section: where its constants start.
        entries: lie in the file.

    Raises:
        ValueError: a bitmap doesn't fit its constant.
        MemoryError: there is no room for what is compressed.
    """
    placed = [p for entry in entries if (p := entry.placed(section)) is not None]
    expanded = iter(expand(data, placed))
    forget_pages(data, placed)
    return tuple(
        np.frombuffer(data, e.dtype, math.prod(e.shape), section + e.offset).reshape(e.shape)
        if e.kept is None
        else next(expanded).view(e.dtype).reshape(e.shape)
        for e in entries
    )


def aligned(size: int) -> int:
    """The next multiple of ``ALIGNMENT``."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def natural(value: Any) -> int:
    """A size out of a manifest.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is no size")
    return value


def _kept(item: dict[str, Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> int | None:
    encoding = item.get("encoding")
    if encoding is None:
        return None
    kept = natural(item["kept"])
    if encoding != "bitmap" or dtype.itemsize > 8 or kept > math.prod(shape):
        raise ValueError(f"{kept} elements of {dtype} with encoding {encoding!r}")
    return kept


def _little_endian(array: Array) -> Array:
    if array.dtype.name not in DTYPES:
        raise ValueError(f"the format has no element type {array.dtype.name}")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))

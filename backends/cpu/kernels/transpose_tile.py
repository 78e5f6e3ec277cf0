"""Transposition of small tiles in vector registers: rows of channels become columns of points, or the other way round.

Vectors are filled with pieces of rows (loads with an insertion, which every port of a core takes), then transposed within each
128 bits by rounds of interleaving: instructions of one cycle on SSE, AVX, AVX-512 and NEON. Elements of 32 bits take two rounds
on four vectors, those of 16 bits three rounds on eight.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T

QUAD = 4
"""Rows transposed together: 128 bits of float32, the most that all instruction sets shuffle at full speed."""


def transposing_width(points: int, lanes: int) -> int:
    """Lanes of the vectors that ``points`` elements are turned into: a power of two from 4 to ``lanes``."""
    width = QUAD
    while width < min(points, lanes):
        width *= 2
    return min(width, max(lanes, QUAD))


def transposed_quad(read: Callable[[int], tirx.Expr], width: int, dtype: str) -> list[tirx.Expr]:
    """`transposed_tile` of four vectors."""
    return transposed_tile(read, QUAD, width, dtype)


def transposed_tile(read: Callable[[int], tirx.Expr], side: int, width: int, dtype: str) -> list[tirx.Expr]:
    """``side`` vectors of ``width`` lanes out of ``width`` of ``side``: lane ``p`` of result ``i`` is lane ``i`` of ``read(p)``.

    Args:
        read: the vector number ``p``.
        side: a power of two; the elements that fill 128 bits are best.
        width: a multiple of ``side``.
        dtype: of the elements, in registers.

    Returns:
        Expressions that read local buffers, valid until the next call emits into the same place.
    """
    everything = tirx.Ramp(T.int64(0), T.int64(1), width)

    def kept(vectors: list[tirx.Expr]) -> list[tirx.Expr]:
        buffer = T.alloc_buffer((side, width), dtype, scope="local", annotations={"disable_lower_builtin": True})
        for i, vector in enumerate(vectors):
            T.buffer_store(buffer, vector, [i, everything])
        return [buffer[i, everything] for i in range(side)]

    parts = width // side
    rows = [shuffle([read(i + side * q) for q in range(parts)], list(range(width))) for i in range(side)]
    # each group of vectors holds lanes of ``unit`` rows side by side; neighbours are joined until one group holds all rows
    unit = 1
    while unit < side:
        rows = kept(rows)
        rows = [
            shuffle([a, b], _interleaved(width, side, unit, high))
            for group in range(0, side, 2 * unit)
            for a, b in zip(rows[group : group + unit], rows[group + unit : group + 2 * unit], strict=True)
            for high in (False, True)
        ]
        unit *= 2
    return rows


def _interleaved(width: int, side: int, unit: int, high: bool) -> list[int]:
    """Indices that interleave two vectors by ``unit`` elements, from the low or the high half of every ``side`` lanes."""
    indices: list[int] = []
    for start in range(0, width, side):
        first = start + high * side // 2
        for place in range(first, first + side // 2, unit):
            for vector in (0, width):
                indices.extend(vector + place + i for i in range(unit))
    return indices


def shuffle(vectors: list[tirx.Expr], indices: list[int]) -> tirx.Expr:
    """Elements ``indices`` of the concatenated vectors."""
    return tirx.Shuffle(vectors, [T.int32(i) for i in indices])


def vector_widths(count: int, widest: int) -> list[tuple[int, int]]:
    """Cuts ``count`` elements into ``(first, width)`` of powers of two up to ``widest``, widest first."""
    parts, first = [], 0
    while first < count:
        width = widest
        while width > count - first:
            width //= 2
        parts.append((first, width))
        first += width
    return parts

"""Transposition of small tiles in vector registers: rows of channels become columns of points, or the other way round.

Four vectors are filled with quarters of rows (loads with an insertion, which every port of a core takes), then transposed
four by four within each quarter by two rounds of interleaving: instructions of one cycle on SSE, AVX, AVX-512 and NEON.
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
    """Four vectors of ``width`` lanes from ``width`` vectors of four: lane ``p`` of result ``i`` is lane ``i`` of ``read(p)``.

    Args:
        read: the vector of four lanes number ``p``.
        width: a multiple of 4.
        dtype: of the elements, in registers.

    Returns:
        Expressions that read local buffers, valid until the next call emits into the same place.
    """
    rows = T.alloc_buffer((QUAD, width), dtype, scope="local", annotations={"disable_lower_builtin": True})
    pairs = T.alloc_buffer((QUAD, width), dtype, scope="local", annotations={"disable_lower_builtin": True})
    everything = tirx.Ramp(T.int64(0), T.int64(1), width)
    quarters = width // QUAD
    for i in range(QUAD):
        parts = [read(i + QUAD * q) for q in range(quarters)]
        T.buffer_store(rows, shuffle(parts, list(range(width))), [i, everything])
    for i, (a, b) in enumerate(((0, 1), (0, 1), (2, 3), (2, 3))):
        both = [rows[a, everything], rows[b, everything]]
        T.buffer_store(pairs, shuffle(both, _interleaved(width, 1, high=i % 2 == 1)), [i, everything])
    results = []
    for a, b, high in ((0, 2, False), (0, 2, True), (1, 3, False), (1, 3, True)):
        results.append(shuffle([pairs[a, everything], pairs[b, everything]], _interleaved(width, 2, high)))
    return results


def _interleaved(width: int, unit: int, high: bool) -> list[int]:
    """Indices that interleave two vectors by ``unit`` elements, from the low or the high half of every four lanes."""
    indices: list[int] = []
    for quad in range(0, width, QUAD):
        for place in range(quad + 2 * high, quad + 2 * high + 2, unit):
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

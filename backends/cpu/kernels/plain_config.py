"""How windows that slide over plain data are computed: tiles that fit the registers, on strips that fit the first-level cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.cpu.kernels.vector_tile import largest_power
from graphopt.backends.specs.convolution import Conv2dSpec

_STRIP_BYTES = 16 * 1024
_MAX_VECTORS = 4
_MAX_TILE = 12
_MAX_CODE = 1500
_LEAST_LANES = 4
_OPEN_COLUMNS = (64, 256)
"""Output columns of a strip where run time tells how many there are, at least and at most: rows a little longer than expected
are one strip too, and the copy of a strip fits the cache."""


@dataclass(frozen=True)
class PlainWindowConfig:
    """How to compute it.

    Attributes:
        lanes: output columns a vector; no more than the output has.
        vectors: vectors of columns a register tile.
        rows: output rows a register tile.
        strip: output rows a strip.
        parallel: whether strips are shared out among threads.
        columns: most output columns of a strip where run time tells how many there are; 0 where it is as wide as the output.
    """

    lanes: int
    vectors: int
    rows: int
    strip: int
    parallel: bool = True
    columns: int = 0


def supports(spec: Conv2dSpec, caps: Caps) -> str | None:
    """Why the loops can't run over ``spec``, or None if they can."""
    if not spec.groups == spec.in_channels == spec.out_channels:
        return "needs one filter a channel"
    if spec.in_block != 1 or spec.out_block != 1:
        return "needs plain layouts"
    if min(spec.pads) < 0:
        return "negative padding"
    known = [d for d in (spec.batch, spec.in_channels, spec.out_height, spec.out_width) if isinstance(d, int)]
    if min(known) < 1:
        return "an empty dimension"
    if spec.kernel[0] * spec.kernel[1] > _MAX_CODE // 8:
        return "a large window"
    if (
        spec.strides[1] * scratch_columns(spec, 16, _open_columns(spec, 16)) * strip_input(spec, 1) * 4
        > 4 * _STRIP_BYTES
    ):
        return "rows too long for scratch"
    return None


def default_config(spec: Conv2dSpec, caps: Caps, kept: int, parallel: bool) -> PlainWindowConfig:
    """A tile that fits the registers besides ``kept`` operands, and strips that fit the first-level cache."""
    lanes, vectors, room = _limits(spec, caps, kept)
    rows = _most_rows(spec, vectors, room)
    columns = _open_columns(spec, lanes * vectors)
    return PlainWindowConfig(lanes, vectors, rows, _strip(spec, lanes, rows, columns), parallel, columns)


def configurations(spec: Conv2dSpec, caps: Caps, kept: int) -> Iterator[PlainWindowConfig]:
    """Tiles that fit the registers besides ``kept`` operands, on the longest strips that fit in cache and on half of that."""
    lanes, most, room = _limits(spec, caps, kept)
    for vectors in range(1, most + 1):
        for rows in range(1, _most_rows(spec, vectors, room) + 1):
            columns = _open_columns(spec, lanes * vectors)
            strip = _strip(spec, lanes, rows, columns)
            for height in dict.fromkeys((strip, max(rows, -(-strip // 2)))):
                for parallel in caps.thread_choices:
                    yield PlainWindowConfig(lanes, vectors, rows, height, parallel, columns)


def _limits(spec: Conv2dSpec, caps: Caps, kept: int) -> tuple[int, int, int]:
    """Lanes, most vectors of a tile, and registers for its accumulators."""
    width = spec.assumed[2]
    least = 1 if spec.static_plane is not None else _LEAST_LANES
    lanes = min(spec.types.lanes(caps), max(largest_power(width), least))
    room = max(2, min(caps.vector_registers - 4 - min(kept, caps.vector_registers // 4), _MAX_TILE))
    return lanes, min(-(-width // lanes), _MAX_VECTORS, room), room


def _most_rows(spec: Conv2dSpec, vectors: int, room: int) -> int:
    taps = spec.kernel[0] * spec.kernel[1]
    return max(1, min(room // vectors, spec.assumed[1], _MAX_CODE // (4 * taps * vectors)))


def _open_columns(spec: Conv2dSpec, tile: int) -> int:
    """Most output columns of a strip, whole tiles, where run time tells how many there are; else 0."""
    if spec.static_plane is not None:
        return 0
    least, most = _OPEN_COLUMNS
    return -(-min(max(spec.assumed[2], least), most) // tile) * tile


def _strip(spec: Conv2dSpec, lanes: int, rows: int, columns: int) -> int:
    """Rows of the longest strip whose input fits the first-level cache, no fewer than a tile's."""
    row_bytes = spec.strides[1] * scratch_columns(spec, lanes, columns) * spec.types.accumulator.bytes
    strip = spec.assumed[1]
    while strip > rows and row_bytes * strip_input(spec, strip) > _STRIP_BYTES:
        strip = -(-strip // 2)
    return strip


def strip_input(spec: Conv2dSpec, rows: int) -> int:
    """Input rows under ``rows`` output rows."""
    return (rows - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.dilations[0] + 1


def scratch_columns(spec: Conv2dSpec, lanes: int, columns: int) -> int:
    """Columns of a remainder in scratch, with room for a vector of padding.

    Args:
        spec: the window.
        lanes: columns of a vector.
        columns: output columns of a strip; 0 for all of the output.
    """
    if columns:
        return columns_read(spec, columns) + sum(padding_columns(spec, lanes)) + 2 * lanes
    data = -(-(int(spec.in_width) + spec.pads[1]) // spec.strides[1])
    return -(-(max(columns_read(spec, int(spec.out_width)), data) + 2 * lanes) // lanes) * lanes


def padding_columns(spec: Conv2dSpec, lanes: int) -> tuple[int, int]:
    """Columns of a remainder, whole vectors, that cover what padding a strip may hold before and behind its data."""
    before, behind = (-(-spec.pads[side] // spec.strides[1]) for side in (1, 3))
    # behind steps of several columns, the last ones may have no data either
    behind += 2 if spec.strides[1] > 1 else 0
    return -(-before // lanes) * lanes, -(-behind // lanes) * lanes


def columns_read(spec: Conv2dSpec, columns: int) -> int:
    """Columns of a remainder that the windows of ``columns`` outputs reach."""
    return (spec.kernel[1] - 1) * spec.dilations[1] // spec.strides[1] + columns

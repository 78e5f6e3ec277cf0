"""How windows that slide over channel-blocked data are computed: tiles that fit the registers, and whether threads are worth it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.specs.convolution import Conv2dSpec

_MAX_TILE = 16
"""Pixels a tile: enough to hide the latency of an addition, and few enough for the text of a kernel to stay short."""

_SPARE_REGISTERS = 4


@dataclass(frozen=True)
class SlidingConfig:
    """How to compute it.

    Attributes:
        lanes: channels a vector; divides the output's block.
        tile: output columns a register tile.
        parallel: whether rows are shared out among threads.
        whole: output columns of a row that is a tile of its own if run time finds it just so long; 0 for none.
    """

    lanes: int
    tile: int
    parallel: bool = True
    whole: int = 0


def tile_for(spec: Conv2dSpec, caps: Caps, kept: int) -> int:
    """Output columns a tile, as many as fit the registers besides ``kept`` operands, in equal parts of a row if that is known.

    Args:
        spec: the window.
        caps: of the target.
        kept: vectors that should stay in registers over a kernel row (its weights).
    """
    limit = _most_columns(caps, kept)
    width = spec.out_width
    if not isinstance(width, int):
        return max(1, min(limit, -(-spec.assumed[2] // 2)))  # a tile at each end leaves out what padding takes part in
    return -(-width // -(-width // limit))


def whole_row(spec: Conv2dSpec, caps: Caps, kept: int) -> int:
    """Columns of the row that is likely, where its length is open and it fits the registers; else 0. Arguments as of `tile_for`.

    Narrow rows are where tiles at both ends would overlap, and compute twice what lies between them. Where steps are longer than
    one column, rows of one length have inputs of several.
    """
    likely = spec.assumed[2]
    fits = not isinstance(spec.out_width, int) and spec.strides[1] == 1 and likely <= _most_columns(caps, kept)
    return likely if fits and (spec.pads[1] or spec.pads[3]) else 0


def _most_columns(caps: Caps, kept: int) -> int:
    return max(1, min(caps.vector_registers - _SPARE_REGISTERS - kept, _MAX_TILE))


def configurations(spec: Conv2dSpec, caps: Caps, lanes: int, kept: int) -> Iterator[SlidingConfig]:
    """Tiles up to the one that fills the registers; arguments as of ``tile_for``."""
    for tile in range(1, tile_for(spec, caps, kept) + 1):
        for parallel in caps.thread_choices:
            yield SlidingConfig(lanes, tile, parallel, whole_row(spec, caps, kept))


def worth_threads(seconds: float, caps: Caps) -> bool:
    """Whether a kernel of so many seconds on one core gains from the other cores: starting them takes some microseconds."""
    return caps.cores > 1 and seconds > 6e-6

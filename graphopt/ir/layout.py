"""How the elements of a tensor are ordered in memory: a permutation of its axes, some of them cut into blocks.

This is oneDNN's notion of a blocked format. The axes are stored in some order, outermost first, and behind them come blocks: runs
of neighbouring positions of an axis. NCHW, NHWC, NCHW16c and packed weights like OIHW4i16o are all of this kind. A tensor is
*logical* in its model's order of axes (``NCHW``) and *physical* as it lies in memory.

Shapes and indices may hold integers, symbolic dimensions or expressions of TVM: whatever can be multiplied and divided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_LETTERS = {2: "NC", 3: "NCW", 4: "NCHW", 5: "NCDHW"}
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Layout:
    """An order of elements in memory.

    Attributes:
        order: logical axes as they are stored, outermost first; None for their own order, whatever the rank.
        blocks: ``(axis, size)`` of what is stored behind all of them, outermost first. An axis may be cut several times; its extent
            is a multiple of the product of its blocks.

    Raises:
        ValueError: ``order`` is no permutation, or a block is of fewer than two positions or of an axis that isn't there.
    """

    order: tuple[int, ...] | None = None
    blocks: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        rank = None if self.order is None else len(self.order)
        if self.order is not None and sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"{self.order} is no order of axes")
        if any(axis < 0 or size < 2 or (rank is not None and axis >= rank) for axis, size in self.blocks):
            raise ValueError(f"{self.blocks} are no blocks of axes")
        if self.order is not None and self.order == tuple(range(len(self.order))):
            object.__setattr__(self, "order", None)  # equal layouts are the same value

    @property
    def is_plain(self) -> bool:
        """Whether elements are stored row by row, in the order of the tensor's own axes."""
        return self.order is None and not self.blocks

    @property
    def channel_block(self) -> int:
        """The block of ``NC[D H W]{block}c``, 0 for every other layout."""
        if self.order is None and len(self.blocks) == 1 and self.blocks[0][0] == 1:
            return self.blocks[0][1]
        return 0

    def axes(self, rank: int) -> tuple[int, ...]:
        """Logical axes as they are stored, blocks aside.

        Raises:
            ValueError: the layout is that of another rank.
        """
        if (self.order is not None and len(self.order) != rank) or any(axis >= rank for axis, _ in self.blocks):
            raise ValueError(f"a tensor of rank {rank} can't be stored as {self}")
        return tuple(range(rank)) if self.order is None else self.order

    def block(self, axis: int) -> int:
        """Positions of an axis that are stored as blocks: the product of its blocks, 1 if it isn't cut."""
        return math.prod(size for a, size in self.blocks if a == axis)

    def fits(self, shape: Sequence[Any]) -> bool:
        """Whether a tensor of this shape can certainly be stored so: blocks divide extents that are known."""
        if self.order is not None and len(self.order) != len(shape):
            return False
        return all(axis < len(shape) and self.is_aligned(axis, shape[axis]) for axis, _ in self.blocks)

    def is_aligned(self, axis: int, position: Any) -> bool:
        """Whether a position along an axis is certainly the first of a block, or the axis isn't cut."""
        block = self.block(axis)
        return block == 1 or (isinstance(position, int) and position % block == 0)

    def physical_shape(self, shape: Sequence[Any]) -> tuple[Any, ...]:
        """Extents as stored: ``(N, C, H, W)`` is ``(N, C // 16, H, W, 16)`` for NCHW16c."""
        if self.is_plain:
            return tuple(shape)
        outer = (_divided(shape[axis], self.block(axis)) for axis in self.axes(len(shape)))
        return (*outer, *(size for _, size in self.blocks))

    def physical_index(self, index: Sequence[Any]) -> tuple[Any, ...]:
        """Where the element at a logical index lies."""
        if self.is_plain:
            return tuple(index)
        outer = [_divided(index[axis], self.block(axis)) for axis in self.axes(len(index))]
        return (*outer, *(_divided(index[axis], step) % size for axis, size, step in self._steps()))

    def logical_index(self, index: Sequence[Any]) -> tuple[Any, ...]:
        """The element that lies at a physical index."""
        if self.is_plain:
            return tuple(index)
        rank = len(index) - len(self.blocks)
        logical = list(index[:rank])
        for place, axis in enumerate(self.axes(rank)):
            block = self.block(axis)
            logical[axis] = index[place] if block == 1 else index[place] * block
        for (axis, _, step), i in zip(self._steps(), index[rank:]):
            logical[axis] = logical[axis] + (i if step == 1 else i * step)
        return tuple(logical)

    def _steps(self) -> list[tuple[int, int, int]]:
        """Axis, size and distance between neighbours, in positions of the axis, of every block."""
        return [
            (axis, size, math.prod(s for a, s in self.blocks[i + 1 :] if a == axis))
            for i, (axis, size) in enumerate(self.blocks)
        ]

    def keeps_order(self, shape: Sequence[Any]) -> bool:
        """Whether a tensor of this shape is certainly the same bytes in the plain layout, as an image of one pixel is."""
        places = [*self.axes(len(shape)), *(axis for axis, _ in self.blocks)]
        extents = self.physical_shape(shape)
        long = [axis for axis, extent in zip(places, extents) if not (isinstance(extent, int) and extent == 1)]
        return long == sorted(long)

    def name(self, rank: int) -> str:
        """In the field's notation: ``NCHW16c``, ``NHWC``, or ``plain``; axes of a tensor of rank above 5 are ``A``, ``B``, ..."""
        if self.is_plain:
            return "plain"
        letters = _LETTERS.get(rank, _ALPHABET)
        return "".join(letters[axis] for axis in self.axes(rank)) + self._blocks(letters)

    def __str__(self) -> str:
        if self.order is not None or self.is_plain:
            return self.name(len(self.order or ()))
        return f"NC...{self._blocks('NC' + _ALPHABET)}"

    def _blocks(self, letters: str) -> str:
        return "".join(f"{size}{letters[axis].lower()}" for axis, size in self.blocks)


def _divided(value: Any, by: int) -> Any:
    return value if by == 1 else value // by


PLAIN = Layout()
"""Row by row."""


def channel_blocks(size: int) -> Layout:
    """``NC[D H W]{size}c``: the channels of a block innermost, for any number of spatial axes."""
    return Layout(blocks=((1, size),))


def channels_last(rank: int) -> Layout:
    """``NHWC``, or the same with fewer or more spatial axes: all channels innermost.

    Raises:
        ValueError: the rank has no channels.
    """
    if rank < 2:
        raise ValueError(f"a tensor of rank {rank} has no channels")
    return Layout((0, *range(2, rank), 1))

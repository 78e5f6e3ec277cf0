"""Copies between layouts."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.element_type import FLOAT32, ElementType
from graphopt.backends.base.tvm_api import tirx


@dataclass(frozen=True)
class LayoutCopySpec:
    """Problem of one copy.

    Attributes:
        batch: images.
        channels: channels, a multiple of ``block``.
        height: rows.
        width: columns.
        block: channel block of the blocked side, a multiple of 4.
        to_blocks: whether the blocked side is written, else it is read.
        type: of the elements.
        depth: images of a stack, for data of one axis more; None for images.
    """

    batch: tirx.Expr | int
    channels: int
    height: tirx.Expr | int
    width: tirx.Expr | int
    block: int
    to_blocks: bool
    type: ElementType = FLOAT32
    depth: tirx.Expr | int | None = None

    @property
    def extents(self) -> tuple[tirx.Expr | int, ...]:
        """Behind the channels."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    @property
    def plain_shape(self) -> tuple[tirx.Expr | int, ...]:
        """NCHW, or NCDHW."""
        return self.batch, self.channels, *self.extents

    @property
    def blocked_shape(self) -> tuple[tirx.Expr | int, ...]:
        """The same with blocks of channels innermost."""
        return self.batch, self.channels // self.block, *self.extents, self.block

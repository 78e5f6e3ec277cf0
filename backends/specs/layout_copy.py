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
    """

    batch: tirx.Expr | int
    channels: int
    height: tirx.Expr | int
    width: tirx.Expr | int
    block: int
    to_blocks: bool
    type: ElementType = FLOAT32

    @property
    def plain_shape(self) -> tuple[tirx.Expr | int, ...]:
        """NCHW."""
        return self.batch, self.channels, self.height, self.width

    @property
    def blocked_shape(self) -> tuple[tirx.Expr | int, ...]:
        """NCHW{b}c."""
        return self.batch, self.channels // self.block, self.height, self.width, self.block

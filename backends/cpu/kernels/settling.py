"""When sums of float16 go to those in float32, in the loops of a convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels.register_tile import RegisterTile, guarded

SETTLED_VECTORS = 4
"""Vectors of tiles with such sums: of two or three, the factors of so many points leave too few registers, and LLVM spills."""
SETTLE_CYCLES = 5.0
"""For a vector of sums in float16 to be added to that in float32, which lies in memory: by llvm-mca for a Neoverse N1."""


def settlings(most: int, steps: int, kernel: tuple[int, int], blocks: int) -> int:
    """How many times `Settling` settles a tile that may add up ``most`` products before, 0 for all."""
    if not most:
        return 0
    of_block = steps * math.prod(kernel)
    if of_block <= most:
        return -(-blocks // (most // of_block))
    return blocks * (kernel[0] if steps * kernel[1] <= most else math.prod(kernel))


@dataclass(frozen=True)
class Settling:
    """Settles a tile after iterations of the outermost loop of which one adds up no more products than may come together.

    Attributes:
        tile: the sums; a tile that adds up everything in one type is left alone.
        steps: products of a kernel element with a group of input channels.
        kernel: rows and columns of the kernel.
        blocks: groups of input channels.
    """

    tile: RegisterTile
    steps: int
    kernel: tuple[int, int]
    blocks: int

    def after_block(self, block: tirx.Expr) -> None:
        """Emits what follows the products of group ``block`` of the input channels."""
        if not self._by_block:
            return
        together = self.tile.most // self._of_block
        together = -(-self.blocks // -(-self.blocks // together))  # parts of about the same length
        with guarded(tirx.EQ(tirx.floormod(block, together), together - 1) if together > 1 else None):
            self.tile.settle()

    def after_row(self) -> None:
        """Emits what follows a row of the kernel."""
        if not self._by_block and self.steps * self.kernel[1] <= self.tile.most:
            self.tile.settle()

    def after_tap(self) -> None:
        """Emits what follows an element of the kernel."""
        if not self._by_block and self.steps * self.kernel[1] > self.tile.most:
            self.tile.settle()

    @property
    def _of_block(self) -> int:
        return self.steps * math.prod(self.kernel)

    @property
    def _by_block(self) -> bool:
        return 0 < self._of_block <= self.tile.most

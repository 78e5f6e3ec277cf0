"""How a product of matrices is shared out among blocks, warps and stages."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.cuda.kernels.products import PRODUCTS, Product
from graphopt.backends.cuda.kernels.thread_block import WARP

ROW_BYTES = 64
"""Of each row of both operands that are in a stage: two steps of the tensor cores."""
CHUNK = 16
"""Bytes that are copied at once."""
PADDING = 4
"""Sums between rows of a tile in shared memory, so that rows start in different banks."""


@dataclass(frozen=True)
class GemmConfig:
    """How to compute it.

    Attributes:
        product: name of how operands are multiplied (`products.PRODUCTS`).
        block_rows, block_columns: of a block's tile of the result.
        warp_rows, warp_columns: warps of a block along rows and columns.
        stages: steps of the reduction whose operands are in shared memory or on their way there.
        slices: parts of the reduction that blocks of their own sum up; the last one to finish adds them.
    """

    product: str
    block_rows: int
    block_columns: int
    warp_rows: int
    warp_columns: int
    stages: int = 3
    slices: int = 1

    @property
    def kind(self) -> Product:
        """How operands are multiplied."""
        return PRODUCTS[self.product]

    @property
    def threads(self) -> int:
        """Of a block."""
        return WARP * self.warp_rows * self.warp_columns

    @property
    def tile_rows(self) -> int:
        """Of a warp's tile."""
        return self.block_rows // self.warp_rows

    @property
    def tile_columns(self) -> int:
        """Of a warp's tile."""
        return self.block_columns // self.warp_columns

    @property
    def step(self) -> int:
        """Elements of a row that are in a stage."""
        return ROW_BYTES // self.kind.element

    @property
    def stage_bytes(self) -> int:
        """Of both operands' tiles."""
        return (self.block_rows + self.block_columns) * ROW_BYTES

    @property
    def staged_bytes(self) -> int:
        """In which the sums of all warps wait for the epilogue, a band of each warp's tile at a time."""
        return self.warp_rows * self.warp_columns * self.band_bytes

    @property
    def band_bytes(self) -> int:
        """Sums of 16 rows of a warp's tile, 4 bytes each."""
        return 16 * (self.tile_columns + PADDING) * 4

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return max(self.stages * self.stage_bytes, self.staged_bytes)

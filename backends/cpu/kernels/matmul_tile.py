"""Register tiles of matrix products: how a problem is cut into them, and how a constant operand is packed for them."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import multiplied_together
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels.bfloat16_pairs import PAIR
from graphopt.backends.cpu.kernels.column_packing import ColumnPacking
from graphopt.backends.cpu.kernels.register_tile import tile_count
from graphopt.backends.cpu.kernels.tiling import Named, Segment, split_balanced, split_symbolic
from graphopt.backends.specs.matmul import MatmulSpec


@dataclass(frozen=True)
class MatmulConfig:
    """How to compute it.

    Attributes:
        m_tile: rows per register tile.
        n_vectors: accumulator vectors per row.
        lanes: sums per accumulator vector.
        m_block: rows that stay in cache while all panels of B pass by, a multiple of ``m_tile``; 0 for all rows.
        k_block: steps of K that all tiles of a block of rows take, for a group of panels, before the next ones; 0 for all.
        n_group: panels in a group.
        prefetch: whether tiles fetch the panel of B that comes next.
        parallel: whether the work is worth more than one thread.
        dot: name of the dot product that multiplies groups of steps of K; none by default.
        streams: panels of B that a tile reads side by side, its vectors shared out among them.
        single: panels of B that a row reads side by side if it turns out to be the only one; 0 if it is computed like others.
        pairs: whether two steps of a bfloat16 B lie in 32 bits, which a shift and a mask make two vectors of float32.
        by_lane: steps of K of a row that come with one load, for multiply-adds by lane; 1 for one at a time.
    """

    m_tile: int
    n_vectors: int
    lanes: int
    m_block: int = 0
    k_block: int = 0
    n_group: int = 1
    prefetch: bool = False
    parallel: bool = True
    dot: str = ""
    streams: int = 1
    pairs: bool = False
    single: int = 0
    by_lane: int = 1

    @property
    def together(self) -> int:
        """Steps of K that are taken at once."""
        return PAIR if self.pairs else multiplied_together(self.dot)

    @property
    def columns(self) -> int:
        """Columns of a register tile."""
        return self.n_vectors * self.lanes

    @property
    def panel(self) -> int:
        """Columns per panel of B."""
        return self.columns // self.streams


def supports(spec: MatmulSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if spec.n < 1 or spec.k < 1 or (spec.static_m is not None and spec.static_m < 1):
        return "an empty dimension"
    return None


def packed_weight_shape(spec: MatmulSpec, config: MatmulConfig) -> tuple[int, int, int]:
    """Shape of the packed B: (panels, K / t, columns of a panel), ``t`` steps of K together in 32 bits for a dot product."""
    side_by_side = max(config.streams, config.single)
    panels = -(-spec.n // (config.panel * side_by_side)) * side_by_side
    return panels, spec.k // config.together, config.panel


def packing(spec: MatmulSpec, config: MatmulConfig, turned: bool = False) -> ColumnPacking:
    """How B is packed, or its transpose if the constant is that."""
    shape = (spec.n, spec.k) if turned else (spec.k, spec.n)
    return ColumnPacking(shape, config.panel, turned, config.together, max(config.streams, config.single))


def panel_and_column(
    config: MatmulConfig, tile: tirx.Expr, k: tirx.Expr, column: tirx.Expr
) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr]:
    """Where packed B holds step ``k`` of a column of the ``tile``-th register tile, or of a vector of neighbouring ones."""
    if config.streams == 1:
        return tile, k, column
    first = column.base if isinstance(column, tirx.Ramp) else column
    panel, within = tile * config.streams + tirx.floordiv(first, config.panel), tirx.floormod(first, config.panel)
    return panel, k, tirx.Ramp(within, column.stride, column.lanes) if isinstance(column, tirx.Ramp) else within


def row_tiles(rows: tirx.Expr | int, tile: int, named: Named = lambda value: value) -> list[Segment]:
    """Rows cut into register tiles; parts that are expressions go through ``named``."""
    return split_balanced(rows, tile) if isinstance(rows, int) else split_symbolic(rows, tile, 0, named)


def tiles_per_block(spec: MatmulSpec, config: MatmulConfig) -> int:
    """Most tiles in one block of rows."""
    if config.m_block:
        return max(1, config.m_block // config.m_tile)
    assert spec.static_m is not None
    return int(tile_count(split_balanced(spec.static_m, config.m_tile)))

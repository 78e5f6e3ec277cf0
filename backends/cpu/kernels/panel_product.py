"""A block of rows times a group of panels of columns, tile by tile: the loops that matrix products share.

Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): a panel of B meets all tiles of a block of
A's rows that second-level cache holds. Where K is so long that it holds too few rows, K is cut into blocks as well. Between
these the sums of the whole block wait in scratch memory; the epilogue sees them once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.backends.base.dot_product import DotProduct
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.bfloat16_pairs import PAIR, half_of_pair
from graphopt.backends.cpu.kernels.prefetch import prefetch
from graphopt.backends.cpu.kernels.register_tile import RegisterTile, bind, for_each_tile
from graphopt.backends.cpu.kernels.tiling import Segment
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import StoreStyle


@dataclass(frozen=True)
class PanelShape:
    """The sizes that the loops are made for.

    Attributes:
        k: reduction length.
        n_vectors: accumulator vectors per row.
        lanes: sums per vector.
        dtype: of the sums.
        m_tile: rows of the highest tile.
        tiles: most tiles in a block of rows.
        panels: most panels in a group.
        k_block: steps of K that all panels of a group and all tiles of a block of rows take before the next; 0 for all.
        dot: the instruction that takes several steps at once, which count as one here.
        widens: whether each panel, or a block of its steps, is copied as it is computed with before tiles read it; needs a known K.
        pairs: whether an element of B is a pair of steps in bfloat16, which count as one here.
        by_lane: steps of K of a row of A that are neighbours in memory and come with one load; 1 for one at a time.
        most: so many products are added up in ``dtype`` before their sum goes to one in float32; 0 for all.
    """

    k: tirx.Expr | int
    n_vectors: int
    lanes: int
    dtype: str
    m_tile: int
    tiles: int = 1
    panels: int = 1
    k_block: int = 0
    dot: DotProduct | None = None
    widens: bool = False
    pairs: bool = False
    by_lane: int = 1
    most: int = 0

    @property
    def width(self) -> int:
        """Columns of the panel."""
        return self.n_vectors * self.lanes


INTO_L2 = 2
"""LLVM's name for the second-level cache as the goal of a prefetch."""

Store = Callable[[tirx.Expr, tirx.Expr, tirx.Expr], None]
"""Emits the store of a finished sum: ``(sum, point of the tile, column of the panel)``."""


@dataclass(frozen=True)
class PanelOperands:
    """How the loops reach their data.

    Attributes:
        a: element of A at ``(row, k)``.
        b: element of B at ``(panel, k, column)``, the column within the panel.
        finish: emits the storing of a tile: ``(tile, panel, first row)``.
        following: packed B of shape (panels, K, columns of a panel), if tiles shall fetch the panel that follows theirs.
        skipped: panels that lie in ``following`` before the first one.
    """

    a: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]
    b: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr]
    finish: Callable[[PanelTile, tirx.Expr, tirx.Expr], None]
    following: View | None = None
    skipped: tirx.Expr | int = 0


class PanelTile(RegisterTile):
    """A register tile whose sums can wait in memory, and that stores any number of columns."""

    def keep(self, kept: tirx.Buffer, slot: tirx.Expr) -> None:
        """Emits the writing of the sums to place ``slot`` of scratch memory of shape (slots, points, columns)."""
        with T.unroll(0, self.points) as p, T.unroll(0, self.vectors) as v, T.vectorized(0, self.lanes) as lane:
            T.buffer_store(kept, self.finished(p, v, lane), [slot, p, v * self.lanes + lane])

    def store_columns(self, columns: int, store: Store, style: StoreStyle) -> None:
        """Emits ``store(sum, point, column)`` for the first ``columns`` columns: whole vectors, then ever narrower ones."""
        if columns % self.lanes == 0:
            self.store_vectors(0, columns, store, style)
            return
        staged = self.staged()
        lanes = T.serial if style is StoreStyle.scalar else T.vectorized
        first = columns // self.lanes * self.lanes
        with T.serial(0, self.points) as p:
            if first:
                with T.serial(0, first // self.lanes) as v, lanes(0, self.lanes) as lane:
                    column = v * self.lanes + lane
                    store(staged[p, column], p, column)
            width = self.lanes // 2
            while first < columns:
                if first + width <= columns:
                    if width == 1:
                        store(staged[p, first], p, first)
                    else:
                        with lanes(0, width) as lane:
                            store(staged[p, first + lane], p, first + lane)
                    first += width
                width //= 2

    def store_some(self, columns: tirx.Expr, store: Store) -> None:
        """As `store_columns` for a number of columns known at run time, one at a time."""
        staged = self.staged()
        with T.serial(0, self.points) as p, T.serial(0, columns) as column:
            store(staged[p, column], p, column)


def multiply_panels(
    shape: PanelShape,
    operands: PanelOperands,
    segments: Sequence[Segment],
    tiles: tuple[tirx.Expr | int, tirx.Expr | int],
    panels: tuple[tirx.Expr | int, tirx.Expr | int],
) -> None:
    """Emits the product of a block of rows and a group of panels.

    Args:
        shape: sizes.
        operands: where the data is.
        segments: the rows cut into tiles.
        tiles: number of the block's first tile, and how many it has.
        panels: number of the group's first panel, and how many it has.
    """
    first, count = tiles
    blocks = _blocks(shape)
    stride = _prefetch_stride(shape, count) if operands.following is not None else 0
    kept = None
    if len(blocks) > 1:
        slots = shape.panels * shape.tiles
        dtype = "float32" if shape.most else shape.dtype
        kept = T.alloc_buffer((slots, shape.m_tile, shape.width), dtype, scope="local")

    def sweep(start: tirx.Expr | int, steps: tirx.Expr | int, begins: bool, ends: bool) -> None:
        def column_block(j: tirx.Expr, i: tirx.Expr, b: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr]) -> None:
            panel = panels[0] + j

            def multiply_half(tile: PanelTile, row: tirx.Expr, k: tirx.Expr, half: int) -> None:
                tile.multiply_add(
                    lambda p: operands.a(row + p, (start + k) * PAIR + half),
                    lambda c: half_of_pair(b(panel, start + k, c), half),
                )

            def tile_of(row: tirx.Expr, segment: Segment) -> None:
                tile = PanelTile(segment.tile, shape.n_vectors, shape.lanes, shape.dtype, shape.most)
                if begins:
                    tile.clear()
                else:
                    assert kept is not None
                    sums = kept
                    tile.resume(lambda p, c: sums[j * shape.tiles + i, p, c])

                def fetch(k: tirx.Expr) -> None:
                    if operands.following is not None:
                        after = operands.skipped + panel + 1
                        prefetch(operands.following, (after, start, (i * steps + k) * stride), INTO_L2)

                if shape.pairs:
                    with T.serial(0, steps) as k:
                        fetch(k)
                        for half in range(PAIR):
                            multiply_half(tile, row, k, half)
                else:
                    tile.accumulate(
                        steps,
                        lambda p, k: operands.a(row + p, start + k),
                        lambda k, c: b(panel, start + k, c),
                        together=shape.by_lane,
                        dot=shape.dot,
                        before=fetch,
                    )
                if ends:
                    operands.finish(tile, panel, row)
                else:
                    tile.keep(kept, j * shape.tiles + i)

            for_each_tile(first + i, segments, tile_of)

        if not shape.widens:
            with T.serial(0, panels[1]) as j, T.serial(0, count) as i:
                column_block(j, i, operands.b)
            return
        with T.serial(0, panels[1]) as j:
            copy = _widened_panel(shape, lambda k, c: operands.b(panels[0] + j, start + k, c), steps)
            with T.serial(0, count) as i:
                column_block(j, i, lambda panel, k, c: copy[k - start, c])

    if len(blocks) == 1:
        sweep(0, shape.k, True, True)
        return
    sweep(0, blocks[0], True, False)
    if len(blocks) > 2:
        with T.serial(1, len(blocks) - 1) as block:
            sweep(block * shape.k_block, shape.k_block, False, False)
    sweep((len(blocks) - 1) * shape.k_block, blocks[-1], False, True)


def _widened_panel(
    shape: PanelShape, element: Callable[[tirx.Expr, tirx.Expr], tirx.Expr], steps: tirx.Expr | int
) -> tirx.Buffer:
    """Emits a copy of a panel's next steps: tiles read every element several times, and widening it takes an instruction or two."""
    copy = T.alloc_buffer((int(shape.k_block or shape.k), shape.width), shape.dtype, scope="local")
    with T.serial(0, steps) as k, T.unroll(0, shape.n_vectors) as v, T.vectorized(0, shape.lanes) as lane:
        column = v * shape.lanes + lane
        T.buffer_store(copy, element(k, column), [k, column])
    return copy


def _blocks(shape: PanelShape) -> list[int]:
    """Steps of each block of K; one of unknown length when K is symbolic."""
    if not isinstance(shape.k, int) or shape.k_block == 0 or shape.k_block >= shape.k:
        return [0]
    full, rest = divmod(shape.k, shape.k_block)
    return [shape.k_block] * full + ([rest] if rest else [])


def _prefetch_stride(shape: PanelShape, tiles: tirx.Expr | int) -> tirx.Expr | int:
    """Elements that each step of each tile fetches ahead, so that a block's tiles together fetch a panel."""
    if isinstance(tiles, int):
        return -(-shape.width // max(shape.tiles, 1))
    tiles = tirx.max(tiles, tirx.const(1, "int64"))
    return bind(tirx.floordiv(tiles + (shape.width - 1), tiles))

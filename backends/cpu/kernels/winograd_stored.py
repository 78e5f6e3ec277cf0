"""Winograd's products with weights that were transformed when compiling, one component after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.base.dot_product import DotProduct
from graphopt.backends.base.element_type import computed_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.prefetch import (
    LINE_BYTES,
    PanelShare,
    panel_share,
    prefetch_panel_share,
    prefetch_row_ahead,
)
from graphopt.backends.cpu.kernels.register_tile import RegisterTile, bind, for_each_tile, guarded, tile_count
from graphopt.backends.cpu.kernels.tiling import Segment
from graphopt.backends.cpu.kernels.winograd_tile import WinogradConfig
from graphopt.backends.cpu.kernels.written_out import accumulate_written_out, can_be_written_out
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.types import FILTERED_PART, MOST_FILTERED_HALVES
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import View, grouped


@dataclass(frozen=True)
class _Ahead:
    """What each step or each block of channels fetches of the next panel."""

    share: PanelShare
    each_step: bool


@dataclass(frozen=True)
class StoredWeights:
    """Emits the products of a block of patches with a group of panels.

    Attributes:
        spec: the problem.
        config: tile and blocks.
        weight: as `winograd_tile.TransformedPacking` packs it.
        element: TVM's name of the type of transformed patches.
        dot: the dot product that multiplies integers, if they are.
    """

    spec: Conv2dSpec
    config: WinogradConfig
    weight: View
    element: str
    dot: DotProduct | None

    def multiply(
        self,
        patches: tirx.Buffer,
        products: tirx.Buffer,
        group: tirx.Expr,
        panels: tirx.Expr | int,
        segments: Sequence[Segment],
    ) -> None:
        """Emits the products of a block of patches with the panels of a group, component by component.

        Args:
            patches: transformed patches, (components, blocks of channels, tiles, b).
            products: where they go, (components, panels, tiles, panel width).
            group: number of the group.
            panels: how many it has.
            segments: register tiles of patches.
        """
        tiles = bind(tile_count(segments))
        ahead = self._ahead(tiles)
        components = T.serial(0, self.config.side**2)
        with components as component, T.serial(0, panels) as panel, T.serial(0, tiles) as index:
            place = (group, component, panel)
            for_each_tile(
                index,
                segments,
                lambda start, segment: self._multiply(patches, products, place, start, segment, index, ahead),
            )

    def _ahead(self, tiles: tirx.Expr | int) -> _Ahead:
        """What is fetched of the next panel, evenly over the whole time: in small shares only if each has a line to fetch."""
        spec, config = self.spec, self.config
        panel_bytes = spec.types.weight.bytes * spec.in_channels * config.panel
        steps = spec.in_channels // config.together
        likely = tiles if isinstance(tiles, int) else ceil_div(config.block, config.points)
        each_step = panel_bytes // LINE_BYTES >= likely * steps
        places = steps if each_step else spec.in_channels // spec.in_block
        return _Ahead(panel_share(panel_bytes, tiles * places), each_step)

    def _multiply(
        self,
        patches: tirx.Buffer,
        products: tirx.Buffer,
        place: tuple[tirx.Expr, tirx.Expr, tirx.Expr],
        start: tirx.Expr,
        segment: Segment,
        index: tirx.Expr,
        ahead: _Ahead,
    ) -> None:
        """Emits the products of one component of one tile of patches with one panel.

        Args:
            patches: transformed patches.
            products: where they go.
            place: group, component, panel of the group.
            start: first patch of the tile.
            segment: its width.
            index: which of the register tiles that read the same panel.
            ahead: what it fetches of the next one.
        """
        spec, config = self.spec, self.config
        group, component, panel = place
        most = FILTERED_PART if spec.types.most_added(spec.in_channels, MOST_FILTERED_HALVES) else 0
        added = spec.types.sum  # they are transformed in that anyway
        sums = RegisterTile(segment.tile, config.oc_vectors, config.lanes, added, most, added)
        blocks = spec.in_channels // spec.in_block
        factors = View(patches, computed_type(self.element))
        if self.dot is not None:
            factors = grouped(factors, self.dot)
        following = [group, component, panel + 1, 0, 0]
        steps = spec.in_channels // config.together
        inner = spec.in_block // config.together
        written_out = self.dot is None and can_be_written_out(sums, inner, config.by_lane)

        def products_of(block: tirx.Expr, begin: bool = False) -> None:
            if config.prefetch and not ahead.each_step:
                prefetch_panel_share(self.weight, following, index * blocks + block, ahead.share)

            def fetch(lane: tirx.Expr) -> None:
                step = block * inner + lane
                if ahead.each_step:
                    prefetch_panel_share(self.weight, following, index * steps + step, ahead.share)
                prefetch_row_ahead(self.weight, [group, component, panel, step])

            def scalar(p: tirx.Expr, lane: tirx.Expr) -> tirx.Expr:
                return factors[component, block, start + p, lane]

            def vector(lane: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
                return self.weight[group, component, panel, block * inner + lane, c]

            before = fetch if config.prefetch else None
            if written_out:
                accumulate_written_out(sums, inner, scalar, vector, config.by_lane, before=before, begin=begin)
            else:
                sums.accumulate(inner, scalar, vector, together=config.by_lane, dot=self.dot, before=before)
            if most:
                together = max(most // spec.in_block, 1)
                with guarded(tirx.EQ(tirx.floormod(block, together), together - 1) if together > 1 else None):
                    sums.settle()

        if written_out and not most:
            products_of(T.int64(0), begin=True)
            with T.serial(0, blocks - 1) as block:
                products_of(block + 1)
        else:
            sums.clear()
            with T.serial(0, blocks) as block:
                products_of(block)
        stored = computed_type(spec.types.sum)
        sums.store_vectors(
            tirx.const(0, "int64"),
            config.panel,
            lambda value, p, c: T.buffer_store(products, stored.stored(value), [component, panel, start + p, c]),
        )

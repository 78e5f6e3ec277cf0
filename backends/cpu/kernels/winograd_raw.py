"""Winograd's products with weights that are stored as they are and transformed on the way.

Transformed weights of F(4 x 4, 3 x 3) are four times as large. Where a thread multiplies all patches with a panel of them, each
weight is needed transformed only once a run, and transforming a block of channels into scratch that fits L2 takes about as long
as to fetch the other three quarters from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.prefetch import panel_share, prefetch_panel_share
from graphopt.backends.cpu.kernels.register_tile import ON_STACK, RegisterTile, bind, for_each_tile, tile_count
from graphopt.backends.cpu.kernels.tiling import Segment
from graphopt.backends.cpu.kernels.winograd_tile import TAPS, WinogradConfig
from graphopt.backends.cpu.kernels.winograd_transforms import WholeFiltering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.operand import View


@dataclass(frozen=True)
class RawWeights:
    """Emits the products of all patches with a group of panels.

    Attributes:
        spec: the problem.
        config: tile and blocks.
        weight: as `winograd_tile.RawPacking` packs it.
        filtering: the arithmetic of the transforms.
    """

    spec: Conv2dSpec
    config: WinogradConfig
    weight: View
    filtering: WholeFiltering

    def multiply(
        self,
        patches: tirx.Buffer,
        products: tirx.Buffer,
        group: tirx.Expr,
        panels: tirx.Expr | int,
        segments: Sequence[Segment],
    ) -> None:
        """Emits the products, summed up block of channels by block.

        Args:
            patches: transformed patches, (blocks of channels, components, b in a block, tiles, b).
            products: where they go, (components, panels, tiles, panel width).
            group: number of the group.
            panels: how many it has.
            segments: register tiles of patches.
        """
        spec, config = self.spec, self.config
        components = config.side**2
        # One row more than there is: no two components of a weight lie in the same set of the first-level cache.
        scratch = T.alloc_buffer((components, config.group * config.depth + 1, config.panel), spec.types.sum)
        tiles = bind(tile_count(segments))
        blocks = spec.in_channels // spec.in_block
        each = config.depth // spec.in_block
        panel_bytes = spec.types.weight.bytes * TAPS * config.group * config.depth * config.panel
        share = panel_share(panel_bytes, components * config.group * tiles * each)
        with T.serial(0, -(-blocks // each)) as number:
            present: tirx.Expr | int = each if blocks % each == 0 else bind(tirx.min(each, blocks - number * each))
            with T.serial(0, panels) as panel, T.serial(0, present * spec.in_block) as channel:
                for vector in range(config.oc_vectors):
                    self._transform(scratch, [group, number, panel, channel], vector)
            following = [group, number + 1, 0, 0, 0, 0]
            with T.serial(0, components) as component, T.serial(0, panels) as panel, T.serial(0, tiles) as index:
                step = ((component * config.group + panel) * tiles + index) * each

                def tile(start: tirx.Expr, segment: Segment) -> None:
                    sums = RegisterTile(segment.tile, config.oc_vectors, config.lanes, spec.types.sum)
                    with T.If(number == 0):
                        with T.Then():
                            sums.clear()
                        with T.Else():
                            sums.resume(lambda p, c: products[component, panel, start + p, c])
                    with T.serial(0, present) as block:
                        if config.prefetch:
                            prefetch_panel_share(self.weight, following, step + block, share)
                        row = panel * config.depth + block * spec.in_block
                        sums.accumulate(
                            spec.in_block,
                            lambda p, lane: patches[number, component, block, start + p, lane],
                            lambda lane, c: scratch[component, row + lane, c],
                            together=config.by_lane,
                        )
                    sums.store_vectors(
                        tirx.const(0, "int64"),
                        config.panel,
                        lambda value, p, c: T.buffer_store(products, value, [component, panel, start + p, c]),
                    )

                for_each_tile(index, segments, tile)

    def _transform(self, scratch: tirx.Buffer, place: Sequence[tirx.Expr], vector: int) -> None:
        """Emits the transform of one vector of the output channels of a panel.

        Args:
            scratch: where it goes, (components, panels * channels of a block, panel width).
            place: group, block of channels, panel of the group, channel of the block.
            vector: which of the panel's.
        """
        side, lanes, row_of = self.config.side, self.config.lanes, self.filtering.weight_row
        row = place[2] * self.config.depth + place[3]
        first = vector * lanes
        half = T.alloc_buffer((side, 3, lanes), self.spec.types.sum, scope="local", annotations=ON_STACK)
        for x in range(3):
            with T.vectorized(0, lanes) as lane:
                column = [(*place, y * 3 + x, first + lane) for y in range(3)]
                for i, value in enumerate(row_of([self.weight[index] for index in column])):
                    T.buffer_store(half, value, [i, x, lane])
        for i in range(side):
            with T.vectorized(0, lanes) as lane:
                for j, value in enumerate(row_of([half[i, x, lane] for x in range(3)])):
                    T.buffer_store(scratch, value, [i * side + j, row, first + lane])

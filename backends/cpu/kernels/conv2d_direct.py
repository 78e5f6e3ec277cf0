"""Direct convolution on NCHW or NCHW{b}c data with the epilogue fused.

After Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures" (2018): a tile of
output pixels by vectors of output channels stays in registers over the whole reduction. Padding is never materialised:
kernel rows that fall outside are left out of the loop, and tiles that touch the left or right border are code of their
own in which the products with padding don't exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from graphopt.backends.base.dot_product import DOT_PRODUCTS, DotProduct, importing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.channels_together import channels_together
from graphopt.backends.cpu.kernels.conv2d_fetching import TileFetching
from graphopt.backends.cpu.kernels.conv2d_stores import TileStores, stores_by_block
from graphopt.backends.cpu.kernels.conv2d_tile import Conv2dConfig, computed_form, packed_weight_shape, segments
from graphopt.backends.cpu.kernels.neighbours import loaded
from graphopt.backends.cpu.kernels.opaque import opaque_imported
from graphopt.backends.cpu.kernels.prefetch import (
    PanelShare,
    panel_share,
    prefetch_panel_share,
    prefetch_row_ahead,
)
from graphopt.backends.cpu.kernels.ragged_taps import each_ragged_tap
from graphopt.backends.cpu.kernels.register_tile import (
    RegisterTile,
    bind,
    bind_segments,
    for_each_tile,
    tile_count,
)
from graphopt.backends.cpu.kernels.rows_together import rows_together
from graphopt.backends.cpu.kernels.settling import Settling
from graphopt.backends.cpu.kernels.slices import (
    data_as_images,
    each_channel_block,
    epilogue_of_images,
    placed,
    result_as_images,
)
from graphopt.backends.cpu.kernels.task_loops import each_tile
from graphopt.backends.cpu.kernels.tiling import Segment
from graphopt.backends.cpu.kernels.widened import factors_of, widened
from graphopt.backends.cpu.kernels.written_out import (
    accumulate_written_out,
    can_be_written_out,
    written_out_imported,
)
from graphopt.backends.specs.convolution import Conv2dSpec, channel_group
from graphopt.backends.specs.slices import Image
from graphopt.backends.templates.operand import GROUPED, View, grouped_weight
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import (
    BiasedEpilogue,
    EpilogueFn,
    ExtraOperand,
    StoreStyle,
    depends_on_point,
    store_accumulator,
)

_WIDENED_WEIGHTS = 1 << 16
_TILES_TO_WIDEN = 16
"""Most weights that are copied to float32 ahead, some microseconds' work, and fewest tiles of a plane that make up for it."""
_NEAR_BYTES = 1 << 14
"""Weights of so many bytes are in the first-level cache from the first tile on: nothing is fetched ahead."""
_SECOND_BYTES, _MANY_POINTS = 1 << 17, 4096
"""Weights of so many bytes stay in the second-level cache, where so many points wait for them once: panels aren't fetched ahead."""


def emit(
    spec: Conv2dSpec,
    config: Conv2dConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "conv2d_direct",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data: spec.input_shape, weight: packed_weight_shape, *extras, output: spec.output_shape)``.

    Args:
        spec: the problem; `supports` must accept it.
        config: the tile; its weights must be packed with the same.
        epilogue: maps an accumulator at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.

    Raises:
        ValueError: the configuration has several rows per tile and the size is symbolic.
    """
    if config.oh_tile > 1 and spec.static_plane is None:
        raise ValueError("tiles of several rows need a static output size")
    types, packed = spec.types, packed_weight_shape(spec, config)
    dot = DOT_PRODUCTS.get(config.dot)
    form = computed_form(spec, config)

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        rows, columns = (bind_segments(axis) for axis in segments(spec, config, bind))
        column_tiles, row_tiles = bind(tile_count(columns)), tile_count(rows)
        symbolic = spec.static_plane is None
        tiles = bind(row_tiles * column_tiles)
        if dot is not None and form is not spec:
            data = rows_together(inputs[0], spec, form, dot, config.parallel)
        elif dot is not None and spec.in_block == 1:
            data = channels_together(inputs[0], dot, config.lanes, config.parallel)
        else:
            data = factors_of(inputs[0], dot, config.lanes, config.parallel)
        weight = widened(inputs[1], config.lanes, False) if _widens_weight(spec, config) else inputs[1]
        finish = epilogue_of_images(epilogue or store_accumulator, spec)
        data, result = data_as_images(data, spec), result_as_images(output, spec)
        panel_bytes = types.weight.bytes * form.reduction * config.oc_panel
        share, weight_bytes = None, panel_bytes * packed[0]
        if (
            config.prefetch
            and weight_bytes > _NEAR_BYTES
            and not (weight_bytes <= _SECOND_BYTES and math.prod(spec.assumed[1:]) >= _MANY_POINTS)
        ):
            share = panel_share(panel_bytes, tiles * (packed[1] * packed[2] * packed[3]))
        kernel = _Kernel(
            form,
            config,
            data,
            weight,
            operands,
            result,
            finish,
            style,
            share,
            dot,
            config.prefetch and weight_bytes > _NEAR_BYTES,
        )

        def task(image: tirx.Expr, panel: tirx.Expr, index: tirx.Expr) -> None:
            image = placed(spec, image)
            row_index, column_index = T.int64(0), index
            if not (isinstance(row_tiles, int) and row_tiles == 1):
                row_index = bind(tirx.floordiv(index, column_tiles), symbolic)
                column_index = bind(tirx.floormod(index, column_tiles), symbolic)
            for_each_tile(
                row_index,
                rows,
                lambda top, row: for_each_tile(
                    column_index, columns, lambda left, column: kernel.tile(image, panel, index, top, row, left, column)
                ),
            )

        with kernel.helpers():
            each_tile(spec.batch, packed[0], tiles, config.cache_tiles, config.parallel, task)

    inputs = [
        ("data", spec.input_shape, types.input),
        ("weight", packed, grouped_weight(types.weight, dot)),
    ]
    return build_prim_func(name, inputs, extras, (spec.output_shape, types.output), body)


def _widens_weight(spec: Conv2dSpec, config: Conv2dConfig) -> bool:
    """Whether narrow weights are widened before everything else: they are few, and many tiles read each of them."""
    pixels = spec.out_height * spec.out_width if spec.static_plane is not None else 0
    elements = spec.reduction * spec.out_channels
    return (
        spec.types.weight.widening > 1 and not config.dot and elements <= _WIDENED_WEIGHTS
        and pixels >= _TILES_TO_WIDEN * config.ow_tile * config.oh_tile
    )  # fmt: skip


@dataclass(frozen=True)
class _Kernel:
    """Emits the code of single register tiles."""

    spec: Conv2dSpec
    config: Conv2dConfig
    data: View
    weight: View
    operands: Sequence[tirx.Buffer]
    output: View
    epilogue: EpilogueFn
    style: StoreStyle
    share: PanelShare | None
    dot: DotProduct | None
    ahead: bool

    @property
    def steps(self) -> int:
        """Steps of the loop over a group of channels."""
        return channel_group(self.spec, self.config.together) // self.config.together

    @property
    def blocks(self) -> int:
        """Groups of channels."""
        return -(-self.spec.in_channels // channel_group(self.spec, self.config.together))

    @property
    def _fetching(self) -> TileFetching:
        return TileFetching(self.spec, self.config, self.data, self.output, self._pixel, self.steps, self.blocks)

    @property
    def _by_row(self) -> bool:
        """Whether lanes of a vector of plain data are what multiply-adds take: neighbours are pixels of a row."""
        return self.config.by_lane > 1 and self.spec.in_block == 1

    @property
    def biased(self) -> BiasedEpilogue | None:
        """The epilogue, if sums start with its bias: where many registers hold a tile, that is no more work than to clear them."""
        # a panel's channels beyond the last one have no bias
        if self.config.by_lane == 1 or self.spec.out_channels % self.config.oc_panel:
            return None
        return self.epilogue if isinstance(self.epilogue, BiasedEpilogue) else None

    @property
    def written_out(self) -> bool:
        """Whether the loop over a block's channels is written out: with one kernel element, and nothing to fetch ahead."""
        return self.config.by_lane > 1 and self.dot is None and self.spec.pointwise and not self.ahead

    @contextmanager
    def helpers(self) -> Iterator[None]:
        """Emits what is written inside with the functions at hand that it calls."""
        with ExitStack() as stack:
            stack.enter_context(importing(self.dot, self.config.lanes))
            if stores_by_block(self.spec, self.config, self.style):
                stack.enter_context(opaque_imported())
            if self.written_out:
                stack.enter_context(written_out_imported(self.spec.types.sum, self.config.lanes))
            yield

    @property
    def _rest(self) -> EpilogueFn:
        """What follows the sums."""
        return self.epilogue if self.biased is None else self.biased.rest

    def tile(
        self, image: Image, panel: tirx.Expr, index: tirx.Expr,
        top: tirx.Expr, row: Segment, left: tirx.Expr, column: Segment,
    ) -> None:  # fmt: skip
        """Emits the tile ``index``, whose first pixel is output row ``top``, column ``left``."""
        config = self.config
        spec, blocks = self.spec, self.blocks
        points, most = row.tile * column.tile, spec.types.most_added(spec.reduction)
        accumulators = RegisterTile(points, config.oc_vectors, config.lanes, spec.types.sum, most)
        settling = Settling(accumulators, self.steps, spec.kernel, blocks)
        first = panel * config.oc_panel
        if self.biased is None:
            accumulators.clear()
        else:
            bias = self.biased.bias
            accumulators.resume(lambda p, c: bias((image, first + c, top, left), self.operands))
        for block in each_channel_block(spec, image, blocks):
            self._fetching.of_output(image, panel, block, top, left, column.tile)
            self._taps(settling, image, panel, index * blocks + block, block, top, row, left, column)
            settling.after_block(block)

        def finish(value: tirx.Expr, point: tirx.Expr, channel: tirx.Expr) -> tirx.Expr:
            h, w = self._pixel(top, left, column.tile, point)
            return self._rest(value, (image, channel, h, w), self.operands)

        stores = TileStores(
            spec, config, self.output, finish, self.style, lambda point: self._pixel(top, left, column.tile, point)
        )
        if spec.out_block == 1:
            depends = depends_on_point(self._rest, self.operands, spec.types.sum)
            stores.plain(accumulators, first, image, (top, left), column.tile, depends)
            return
        stores.in_blocks(accumulators, first, image)

    def _pixel(self, top: tirx.Expr, left: tirx.Expr, width: int, point: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """Output row and column of a tile's point."""
        if self.spec.pointwise:
            flat = left + point
            return tirx.floordiv(flat, self.spec.out_width), tirx.floormod(flat, self.spec.out_width)
        if self.spec.static_plane is None:  # tiles have one row
            return top, left + point
        return top + tirx.floordiv(point, width), left + tirx.floormod(point, width)

    def _taps(
        self, settling: Settling, image: Image, panel: tirx.Expr, step_of_block: tirx.Expr, block: tirx.Expr,
        top: tirx.Expr, row: Segment, left: tirx.Expr, column: Segment,
    ) -> None:  # fmt: skip
        """Emits the products of one group of input channels with every kernel element that meets the input."""
        spec = self.spec
        kernel_height, kernel_width = spec.kernel

        def products(ky: tirx.Expr, kx: tirx.Expr, points: tuple[int, int]) -> None:
            def scalar(point: tirx.Expr, lane: tirx.Expr) -> tirx.Expr:
                h, w = self._pixel(top, left, column.tile, point)
                y = h * spec.strides[0] + (ky * spec.dilations[0] - spec.pads[0])
                x = w * spec.strides[1] + (kx * spec.dilations[1] - spec.pads[1])
                if spec.in_block == 1:
                    return self.data[image, block * self.steps + lane, y, x]
                return self.data[image, block, y, x, lane]

            # a tap's share at a time: the more of a block's in one burst would leave no room for the loads in between
            if self.share is not None:
                step = (step_of_block * spec.kernel[0] + ky) * spec.kernel[1] + kx
                prefetch_panel_share(self.weight, [panel + 1, 0, 0, 0, 0, 0], step, self.share)

            def fetch(lane: tirx.Expr) -> None:
                if self.ahead:
                    prefetch_row_ahead(self.weight, [panel, block, ky, kx, lane])
                self._fetching.of_data(image, block, lane, top, left, column.tile)

            together = 1 if spec.in_block == 1 else self.config.by_lane
            vector = lambda lane, c: self.weight[panel, block, ky, kx, lane, c]  # noqa: E731
            if self.written_out and can_be_written_out(settling.tile, self.steps, together):
                accumulate_written_out(settling.tile, self.steps, scalar, vector, together, before=fetch)
            else:
                settling.tile.accumulate(
                    self.steps, scalar, vector, together=together, points=points, dot=self.dot, before=fetch
                )
            settling.after_tap()

        def products_of_row(ky: tirx.Expr, first: int, last: int) -> None:
            """As `products` for a whole kernel row and whole rows of the tile: inputs are neighbours, and each is loaded once."""
            if self.share is not None:
                with T.serial(0, kernel_width) as kx:
                    step = (step_of_block * spec.kernel[0] + ky) * spec.kernel[1] + kx
                    prefetch_panel_share(self.weight, [panel + 1, 0, 0, 0, 0, 0], step, self.share)
            step, apart = spec.strides[1], spec.dilations[1]
            span = (column.tile - 1) * step + (kernel_width - 1) * apart + 1

            def inputs_of(r: int, lane: tirx.Expr) -> tirx.Buffer:
                h, w = self._pixel(top, left, column.tile, T.int64(r * column.tile))
                y = h * spec.strides[0] + (ky * spec.dilations[0] - spec.pads[0])
                x = w * step - spec.pads[1]
                channel = block * self.steps + lane
                dtype = spec.types.sum if self.dot is None else GROUPED.storage
                return loaded(span, self.config.by_lane, dtype, lambda i: self.data[image, channel, y, x + i])

            def one(r: int, kx: int, inputs: tirx.Buffer, lane: tirx.Expr) -> None:
                start = r * column.tile
                scalar = lambda p: inputs[(p - start) * step + kx * apart]  # noqa: E731
                vector = lambda c: self.weight[panel, block, ky, kx, lane, c]  # noqa: E731
                settling.tile.multiply_add(scalar, vector, (start, start + column.tile), self.dot, by_lane=True)

            with T.serial(0, self.steps) as lane:
                if self.ahead:
                    with T.unroll(0, kernel_width) as kx:
                        prefetch_row_ahead(self.weight, [panel, block, ky, kx, lane])
                self._fetching.of_data(image, block, lane, top, left, column.tile)
                rows = [inputs_of(r, lane) for r in range(first, last)]
                for kx in range(kernel_width):
                    for r, inputs in enumerate(rows, first):
                        one(r, kx, inputs, lane)
                settling.after_tap()

        def kernel_row(ky: tirx.Expr, first: int = 0, last: int = row.tile) -> None:
            """Kernel row ``ky`` on rows ``[first, last)`` of the tile."""
            kernel_columns(ky, first, last)
            settling.after_row()

        def kernel_columns(ky: tirx.Expr, first: int, last: int) -> None:
            if column.clipped:
                low, count = (bind(bound) for bound in spec.window(1).clip(left))
                with T.serial(0, count) as step:
                    products(ky, low + step, (first * column.tile, last * column.tile))
                return
            if column.ragged:

                def on_points(kx: tirx.Expr, points: tuple[int, int]) -> None:
                    for r in range(first, last):
                        products(ky, kx, (r * column.tile + points[0], r * column.tile + points[1]))

                each_ragged_tap(spec.window(1), left, column.tile, on_points)
                return
            if column.taps is None and self._by_row:
                products_of_row(ky, first, last)
                return
            if column.taps is None:
                with T.serial(0, kernel_width) as kx:
                    products(ky, kx, (first * column.tile, last * column.tile))
                return
            for kx, (low, high) in enumerate(column.taps):
                if (low, high) == (0, column.tile):
                    products(ky, kx, (first * column.tile, last * column.tile))
                elif low < high:
                    for r in range(first, last):
                        products(ky, kx, (r * column.tile + low, r * column.tile + high))

        if row.taps is not None:
            for ky, (first, last) in enumerate(row.taps):
                if first < last:
                    kernel_row(ky, first, last)
        elif self.config.oh_tile == 1 and (spec.pads[0] or spec.pads[2]):
            low, count = (bind(bound, spec.static_plane is None) for bound in spec.window(0).clip(top))
            with T.serial(0, count) as step:
                kernel_row(low + step)
        else:
            with T.serial(0, kernel_height) as ky:
                kernel_row(ky)

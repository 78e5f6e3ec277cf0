"""3 x 3 convolution by Winograd's minimal filtering on NCHW{b}c data, with the epilogue fused.

F(m x m, 3 x 3) computes a tile of m x m outputs from a patch of (m + 2) x (m + 2) inputs with (m + 2)^2 products a channel
pair instead of 9 m^2 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016). A block of tiles is
transformed into scratch that fits L2, multiplied component by component with weights that were transformed when compiling, or
that are transformed on the way (`winograd_raw`), one panel of output channels at a time, and transformed back while the panel's
products are in cache: nothing but the input and the output passes through memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from graphopt.backends.base.dot_product import DOT_PRODUCTS, DotProduct, importing
from graphopt.backends.base.element_type import HALF
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.memory_fence import memory_fence_imported
from graphopt.backends.cpu.kernels.register_tile import (
    ON_STACK,
    bind,
    bind_segments,
    guarded,
)
from graphopt.backends.cpu.kernels.side_by_side import vectors_side_by_side
from graphopt.backends.cpu.kernels.slices import data_as_images, epilogue_of_images, placed, result_as_images
from graphopt.backends.cpu.kernels.sliding_window import serial_loop
from graphopt.backends.cpu.kernels.tiling import Segment, split_balanced, split_symbolic
from graphopt.backends.cpu.kernels.winograd_integers import IntegerFiltering
from graphopt.backends.cpu.kernels.winograd_pieces import joined, transform_in_pieces
from graphopt.backends.cpu.kernels.winograd_raw import RawWeights
from graphopt.backends.cpu.kernels.winograd_stored import StoredWeights
from graphopt.backends.cpu.kernels.winograd_tile import WinogradConfig, packed_weight_shape, tile_grid
from graphopt.backends.cpu.kernels.winograd_transforms import Filtering, HalfFiltering, WholeFiltering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.slices import Image
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import View, grouped_weight
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator


def emit(
    spec: Conv2dSpec,
    config: WinogradConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "conv2d_winograd",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data: spec.input_shape, weight: packed_weight_shape, *extras, output: spec.output_shape)``.

    Args:
        spec: the problem; `supports` must accept it.
        config: tile and blocks; its weights must be packed with the same.
        epilogue: maps an accumulator at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: whether the epilogue can be vectorised.
    """

    dot = DOT_PRODUCTS.get(config.dot)

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        grid_rows, grid_columns = (bind(extent) for extent in tile_grid(spec, config.m))
        tiles = bind(spec.batch * (grid_rows * grid_columns), not isinstance(grid_rows * grid_columns, int))
        kernel = _Kernel(
            spec, config, data_as_images(inputs[0], spec), inputs[1], operands, result_as_images(output, spec),
            epilogue_of_images(epilogue or store_accumulator, spec), style, grid_rows, grid_columns, tiles, dot,
        )  # fmt: skip
        with importing(dot, config.lanes), kernel.helpers():
            stages(kernel)

    def stages(kernel: _Kernel) -> None:
        groups = packed_weight_shape(spec, config)[0]
        blocks = spec.in_channels // spec.in_block
        rounds = 1 if config.by_group and kernel.are_known else bind(ceil_div(kernel.tiles, config.block))
        if config.by_group and not config.private:
            patches = kernel.patches()
            with serial_loop(rounds) as number:
                some = kernel.part(number)
                with T.parallel(0, blocks * some.count) as flat:
                    channels = bind(tirx.floordiv(flat, some.count), not kernel.are_known)
                    kernel.transform_patch(
                        patches, channels, some.first, bind(flat - channels * some.count, not kernel.are_known)
                    )
                with T.parallel(0, groups) as group:
                    kernel.group(patches, group, some)
            return
        with T.parallel(0, groups * rounds if config.by_group else rounds) as task:
            some = kernel.part(tirx.floordiv(task, groups) if config.by_group else task)
            patches = kernel.patches()
            with T.serial(0, blocks) as channels, T.serial(0, some.count) as tile:
                kernel.transform_patch(patches, channels, some.first, tile)
            if config.by_group:
                kernel.group(patches, tirx.floormod(task, groups), some)
                return
            with T.serial(0, groups) as group:
                kernel.group(patches, group, some)

    types = spec.types
    inputs = [
        ("data", spec.input_shape, types.input),
        ("weight", packed_weight_shape(spec, config), grouped_weight(types.weight, dot)),
    ]
    return build_prim_func(name, inputs, extras, (spec.output_shape, types.output), body)


@dataclass(frozen=True)
class _Part:
    """A block of tiles that goes through all stages together.

    Attributes:
        first: number of its first tile.
        count: how many tiles it has.
        segments: the register tiles that cover them.
    """

    first: tirx.Expr | int
    count: tirx.Expr | int
    segments: Sequence[Segment]


@dataclass(frozen=True)
class _Kernel:
    """Emits the code of the three stages."""

    spec: Conv2dSpec
    config: WinogradConfig
    data: View
    weight: View
    operands: Sequence[tirx.Buffer]
    output: View
    epilogue: EpilogueFn
    style: StoreStyle
    grid_rows: tirx.Expr | int
    grid_columns: tirx.Expr | int
    tiles: tirx.Expr | int
    dot: DotProduct | None

    @property
    def are_known(self) -> bool:
        """Whether the number of tiles is known."""
        return isinstance(self.tiles, int)

    def part(self, number: tirx.Expr | int) -> _Part:
        """The block ``number``; where run time tells how many tiles there are, the last one has no more than are left."""
        config = self.config
        if self.are_known:
            first = 0 if config.by_group else bind(number * config.block)
            return _Part(first, config.block, split_balanced(config.block, config.points))
        first = bind(number * config.block)
        count = bind(tirx.min(self.tiles - first, config.block))
        return _Part(first, count, bind_segments(split_symbolic(count, config.points, named=bind)))

    @property
    def element(self) -> str:
        """TVM's name of the type in which patches are transformed."""
        return self.spec.types.sum if self.dot is None else self.spec.types.input.compute

    @property
    def width(self) -> int:
        """Channels of a vector on the way back."""
        return math.gcd(self.config.lanes, self.spec.out_block)

    @property
    def filtering(self) -> Filtering:
        """The arithmetic of the transforms."""
        if self.config.depth:
            return self.whole_filtering
        if self.dot is not None:
            return IntegerFiltering(self.config.m, self.width)
        return HalfFiltering(self.config.m) if self.spec.types.accumulator is HALF else Filtering(self.config.m)

    @property
    def in_pieces(self) -> bool:
        """Whether transforms are cut to fit the register file: where there are 32 of them."""
        return self.config.by_lane > 1 and self.dot is None

    def helpers(self) -> AbstractContextManager[None]:
        """Emits what is written inside with the functions at hand that transforms call."""
        return memory_fence_imported() if self.in_pieces else self.filtering.imported()

    @property
    def whole_filtering(self) -> WholeFiltering:
        """The arithmetic where weights are transformed on the way."""
        return WholeFiltering(self.config.m)

    def patches(self) -> tirx.Buffer:
        """Scratch for a block of transformed patches: (components, C / b, tiles, b).

        Where weights are transformed on the way, what is multiplied with a block of them lies together:
        (blocks of channels, components, b in a block, tiles, b).
        """
        spec, config = self.spec, self.config
        blocks, components = spec.in_channels // spec.in_block, config.side**2
        if config.depth:
            each = config.depth // spec.in_block
            return T.alloc_buffer((-(-blocks // each), components, each, config.block, spec.in_block), self.element)
        return T.alloc_buffer((components, blocks, config.block, spec.in_block), self.element)

    def _place(self, number: tirx.Expr) -> tuple[Image, tirx.Expr, tirx.Expr]:
        """Image, first output row and first output column of a tile."""
        per_image = self.grid_rows * self.grid_columns
        inside = bind(tirx.floormod(number, per_image))
        row, column = tirx.floordiv(inside, self.grid_columns), tirx.floormod(inside, self.grid_columns)
        image = placed(self.spec, bind(tirx.floordiv(number, per_image)))
        return image, bind(row * self.config.m), bind(column * self.config.m)

    def transform_patch(
        self, patches: tirx.Buffer, channels: tirx.Expr, first: tirx.Expr | int, tile: tirx.Expr
    ) -> None:
        """Emits the transform of one block of channels of one patch.

        Tiles beyond the last one repeat it: they are multiplied, but never stored.
        """
        spec, side, lanes = self.spec, self.config.side, self.spec.in_block
        number = bind(tirx.min(first + tile, self.tiles - 1))
        image, row, column = self._place(number)
        top, left = bind(row - spec.pads[0]), bind(column - spec.pads[1])
        half = T.alloc_buffer((side, side, lanes), self.element, scope="local", annotations=ON_STACK)

        def columns(read: Callable[[int, tirx.Expr, tirx.Expr], tirx.Expr]) -> None:
            with T.unroll(0, side) as x:
                for i in range(side):
                    with T.vectorized(0, lanes) as lane:
                        values = self.filtering.input_row([read(y, x, lane) for y in range(side)])
                        T.buffer_store(half, values[i], [i, x, lane])

        def transform(read: Callable[[int, tirx.Expr | int, tirx.Expr], tirx.Expr]) -> None:
            if self.in_pieces:
                self._transform_in_pieces(patches, channels, tile, read)
            else:
                columns(read)

        inside = tirx.all(top >= 0, left >= 0, top + side <= spec.in_height, left + side <= spec.in_width)
        present: tirx.Expr | None = None
        if spec.slices is not None:
            present = bind(spec.slices.is_inside(image, channels, spec.in_block))
            inside = tirx.And(present, inside)
        with T.If(inside):
            with T.Then():
                transform(lambda y, x, lane: self.data[image, channels, top + y, left + x, lane])
            with T.Else():
                padded = T.alloc_buffer((side, side, lanes), self.element, scope="local", annotations=ON_STACK)
                with T.unroll(0, side) as y, T.unroll(0, side) as x, T.vectorized(0, lanes) as lane:
                    T.buffer_store(padded, tirx.const(0, self.element), [y, x, lane])
                y_low, x_low = bind(tirx.max(0, -top)), bind(tirx.max(0, -left))
                y_count = bind(tirx.max(tirx.min(side, spec.in_height - top) - y_low, 0))
                if present is not None:
                    y_count = bind(tirx.Select(present, tirx.Cast("int64", y_count), tirx.const(0, "int64")))
                x_count = bind(tirx.max(tirx.min(side, spec.in_width - left) - x_low, 0))
                with T.serial(0, y_count) as dy, T.serial(0, x_count) as dx, T.vectorized(0, lanes) as lane:
                    value = self.data[image, channels, top + (y_low + dy), left + (x_low + dx), lane]
                    T.buffer_store(padded, value, [y_low + dy, x_low + dx, lane])
                transform(lambda y, x, lane: padded[y, x, lane])
        if self.in_pieces:
            return
        with T.unroll(0, side) as i:
            for j in range(side):
                with T.vectorized(0, lanes) as lane:
                    values = self.filtering.input_row([half[i, x, lane] for x in range(side)])
                    place = self._place_of_patch(i * side + j, channels)
                    T.buffer_store(patches, values[j], [*place, tile, lane])

    def _transform_in_pieces(
        self,
        patches: tirx.Buffer,
        channels: tirx.Expr,
        tile: tirx.Expr,
        read: Callable[[int, tirx.Expr | int, tirx.Expr], tirx.Expr],
    ) -> None:
        """Emits the transform of a patch, a vector of its channels at a time."""
        side, lanes = self.config.side, math.gcd(self.config.lanes, self.spec.in_block)
        with T.serial(0, self.spec.in_block // lanes) as vector:
            first = vector * lanes

            def store(i: int, j: int, lane: tirx.Expr, value: tirx.Expr) -> None:
                place = self._place_of_patch(tirx.const(i * side + j, "int64"), channels)
                T.buffer_store(patches, value, [*place, tile, first + lane])

            pieces = self.filtering.input_pieces()
            transform_in_pieces(
                pieces, pieces, side, lanes, self.element, lambda y, x, lane: read(y, x, first + lane), store
            )

    def _place_of_patch(self, component: tirx.Expr, channels: tirx.Expr) -> list[tirx.Expr]:
        """The first indices of `patches`."""
        if not self.config.depth:
            return [component, channels]
        each = self.config.depth // self.spec.in_block
        return [tirx.floordiv(channels, each), component, tirx.floormod(channels, each)]

    def group(self, patches: tirx.Buffer, group: tirx.Expr, part: _Part) -> None:
        """Emits the products of a block of patches with a group of panels, and their way back."""
        spec, config = self.spec, self.config
        products = T.alloc_buffer((config.side**2, config.group, config.block, config.panel), self.spec.types.sum)
        all_panels = -(-spec.out_channels // config.panel)
        panels: tirx.Expr | int = config.group
        if all_panels % config.group:
            panels = bind(tirx.min(config.group, all_panels - group * config.group))
        if config.depth:
            raw = RawWeights(spec, config, self.weight, self.whole_filtering)
            raw.multiply(patches, products, group, panels, part.segments)
        else:
            stored = StoredWeights(spec, config, self.weight, self.element, self.dot)
            stored.multiply(patches, products, group, panels, part.segments)
        with T.serial(0, panels) as panel, T.serial(0, part.count) as tile:
            number = bind(part.first + tile)
            with guarded(number < self.tiles):
                self._transform_back(products, group, panel, number, tile)

    def _transform_back(
        self, products: tirx.Buffer, group: tirx.Expr, panel: tirx.Expr, number: tirx.Expr, tile: tirx.Expr
    ) -> None:
        """Emits the outputs of one tile: all channels of a panel."""
        spec, config = self.spec, self.config
        side, m = config.side, config.m
        lanes, filtering = self.width, self.filtering
        image, top, left = self._place(number)
        rows = bind(tirx.min(m, spec.out_height - top))
        columns = bind(tirx.min(m, spec.out_width - left))
        ragged = spec.out_channels % config.panel != 0

        def local(columns: int) -> tirx.Buffer:
            return T.alloc_buffer((m, columns, lanes), self.spec.types.sum, scope="local", annotations=ON_STACK)

        def transformed(
            vector: tirx.Expr,
            emit: Callable[[int, int, tirx.Expr, tirx.Expr], None],
            at_once: bool,
            row: Callable[[int], AbstractContextManager[None]] = lambda i: nullcontext(),
        ) -> None:
            """Emits what becomes of the outputs, of one vector of channels; ``at_once`` where nothing else needs registers."""
            side, pieces = config.side, filtering.output_pieces()

            def read(y: int, x: int, lane: tirx.Expr) -> tirx.Expr:
                return products[y * side + x, panel, tile, vector * lanes + lane]

            def finished(i: int, j: int, lane: tirx.Expr, value: tirx.Expr) -> None:
                emit(i, j, lane, filtering.result(value))

            down = (joined(pieces),) if at_once else pieces
            transform_in_pieces(down, pieces, side, lanes, spec.types.sum, read, finished, row)

        def half_way(half: tirx.Buffer, vector: tirx.Expr) -> None:
            """Emits the first half of the way back, of one vector of channels, into (m, side, lanes)."""
            lane = tirx.Ramp(0, 1, lanes)
            with T.unroll(0, side) as x:
                column = [products[y * side + x, panel, tile, vector * lanes + lane] for y in range(side)]
                for i, value in enumerate(filtering.output_row(column)):
                    T.buffer_store(half, value, [i, x, lane])

        def store(value: tirx.Expr, base: tirx.Expr, y: tirx.Expr, x: tirx.Expr, lane: tirx.Expr) -> None:
            channel, h, w = base + lane, top + y, left + x
            stored = self.epilogue(value, (image, channel, h, w), self.operands)
            block, place = tirx.floordiv(channel, spec.out_block), tirx.floormod(channel, spec.out_block)
            self.output.store(stored, [image, block, h, w, place])

        def whole(vector: tirx.Expr, base: tirx.Expr) -> None:
            """Emits the outputs of a tile that has all of them, each from registers."""
            transformed(vector, lambda i, j, lane, value: store(value, base, i, j, lane), True)

        def present(vector: tirx.Expr, base: tirx.Expr) -> None:
            """Emits the outputs that there are, each from registers."""

            def one(i: int, j: int, lane: tirx.Expr, value: tirx.Expr) -> None:
                with guarded(columns > j):
                    store(value, base, i, j, lane)

            transformed(vector, one, True, lambda i: guarded(rows > i))

        def some(vector: tirx.Expr, base: tirx.Expr) -> None:
            """Emits the outputs that there are."""
            result = local(m)
            if self.in_pieces:
                transformed(vector, lambda i, j, lane, value: T.buffer_store(result, value, [i, j, lane]), False)
            else:
                half = local(side)
                half_way(half, vector)
                lane = tirx.Ramp(0, 1, lanes)
                with T.unroll(0, m) as i:
                    for j, value in enumerate(filtering.output_row([half[i, x, lane] for x in range(side)])):
                        T.buffer_store(result, filtering.result(value), [i, j, lane])
            with T.serial(0, rows) as y:

                def one_by_one() -> None:
                    loop = T.serial if self.style is StoreStyle.scalar else T.vectorized
                    with T.serial(0, columns) as x, loop(0, lanes) as lane:
                        store(result[y, x, lane], base, y, x, lane)

                if self.style is not StoreStyle.rolled:
                    one_by_one()
                else:
                    with T.If(columns == m):
                        with T.Then():
                            vectors_side_by_side(m, lanes, lambda x, lane: store(result[y, x, lane], base, y, x, lane))
                        with T.Else():
                            one_by_one()

        def vectors(body: Callable[[tirx.Expr, tirx.Expr], None]) -> None:
            with T.serial(0, config.panel // lanes) as vector:
                base = (group * config.group + panel) * config.panel + vector * lanes
                with guarded(base < spec.out_channels if ragged else None):
                    body(vector, base)

        if self.in_pieces and self.style is StoreStyle.unrolled:
            with T.If(tirx.all(rows == m, columns == m)):
                with T.Then():
                    vectors(whole)
                with T.Else():
                    vectors(present)
            return
        vectors(some)

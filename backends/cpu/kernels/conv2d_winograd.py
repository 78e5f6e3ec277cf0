"""Convolution by Winograd's minimal filtering on NCHW{b}c data, with the epilogue fused.

F(m x m, r x r) computes a tile of m x m outputs from a patch of (m + r - 1)^2 inputs with as many products a channel pair instead
of r^2 m^2 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016). Kernels are 3 x 3 with stride 1, elsewhere
others too (`winograd_tile.supports`), and those with stride 2 by their phases. A block of tiles is transformed into scratch that
fits L2, multiplied component by component with weights that were transformed when compiling, or that are transformed on the way
(`winograd_raw`), one panel of output channels at a time, and transformed back while the panel's products are in cache: nothing
but the input and the output passes through memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from graphopt.backends.base.dot_product import DOT_PRODUCTS, DotProduct, importing
from graphopt.backends.base.element_type import HALF
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.phases import data_of_phases, has_phases, of_phases, phases_together
from graphopt.backends.cpu.kernels.pinned import fence_imported, pinned_imported
from graphopt.backends.cpu.kernels.register_tile import (
    ON_STACK,
    bind,
    bind_segments,
    guarded,
)
from graphopt.backends.cpu.kernels.slices import data_as_images, epilogue_of_images, placed, result_as_images
from graphopt.backends.cpu.kernels.sliding_window import serial_loop
from graphopt.backends.cpu.kernels.tiling import Segment, split_balanced, split_symbolic
from graphopt.backends.cpu.kernels.winograd_integers import IntegerFiltering
from graphopt.backends.cpu.kernels.winograd_pieces import transform_in_pieces
from graphopt.backends.cpu.kernels.winograd_raw import RawWeights
from graphopt.backends.cpu.kernels.winograd_results import Tile, WayBack
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
        data, result = data_of_phases(data_as_images(inputs[0], spec), spec), result_as_images(output, spec)
        planes = inputs[0] if has_phases(spec) else None
        kernel = _Kernel(
            of_phases(spec), config, data, planes, inputs[1], operands, result,
            epilogue_of_images(epilogue or store_accumulator, spec), style, grid_rows, grid_columns, tiles, dot,
        )  # fmt: skip
        with importing(dot, config.lanes), kernel.helpers():
            stages(kernel)

    def stages(kernel: _Kernel) -> None:
        groups = packed_weight_shape(spec, config)[0]
        blocks = kernel.spec.in_channels // kernel.spec.in_block
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
        ("weight", packed_weight_shape(of_phases(spec), config), grouped_weight(types.weight, dot)),
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
    """Emits the code of the three stages, of a convolution with stride 1; ``planes`` is its data where channels are phases."""

    spec: Conv2dSpec
    config: WinogradConfig
    data: View
    planes: View | None
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
            return IntegerFiltering(self.config.m, lanes=self.width)
        return (
            HalfFiltering(self.config.m)
            if self.spec.types.accumulator is HALF
            else Filtering(self.config.m, self.config.taps)
        )

    @property
    def in_pieces(self) -> bool:
        """Whether transforms are cut to fit the register file: where there are 32 of them."""
        return self.config.by_lane > 1 and self.dot is None

    @property
    def in_lanes(self) -> int:
        """Channels of a vector on the way in, where transforms are cut."""
        return math.gcd(self.config.lanes, self.spec.in_block)

    @contextmanager
    def helpers(self) -> Iterator[None]:
        """Emits what is written inside with the functions at hand that transforms call."""
        if not self.in_pieces:
            with self.filtering.imported():
                yield
            return
        with ExitStack() as stack:
            sums = self.spec.types.sum
            for dtype, lanes in sorted({(self.element, self.in_lanes), (sums, self.width), (sums, self.config.lanes)}):
                stack.enter_context(pinned_imported(dtype, lanes))
            stack.enter_context(fence_imported())
            yield

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
                if self.planes is not None:
                    self._transform_phases(patches, tile, self.planes, (image, top, left))
                else:
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
        side, lanes = self.config.side, self.in_lanes
        with T.serial(0, self.spec.in_block // lanes) as vector:
            first = vector * lanes

            def store(i: int, j: int, lane: tirx.Expr, value: tirx.Expr) -> None:
                place = self._place_of_patch(tirx.const(i * side + j, "int64"), channels)
                T.buffer_store(patches, value, [*place, tile, first + lane])

            pieces = self.filtering.input_pieces()
            transform_in_pieces(
                pieces, pieces, side, lanes, self.element, lambda y, x, lane: read(y, x, first + lane), store
            )

    def _transform_phases(
        self, patches: tirx.Buffer, tile: tirx.Expr, planes: View, place: tuple[Image, tirx.Expr, tirx.Expr]
    ) -> None:
        """Emits the transform of a patch whose channels are phases, a plane of the data at a time."""
        side, lanes = self.config.side, self.in_lanes
        image, top, left = place
        pieces = self.filtering.input_pieces()
        with T.serial(0, self.spec.in_block // lanes) as plane:
            transform_in_pieces(
                pieces, pieces, side, lanes, self.element,
                lambda y, x, _: phases_together(planes, image, plane, top + y, left + x),
                lambda i, j, lane, value: T.buffer_store(patches, value, [i * side + j, 0, tile, plane * lanes + lane]),
                whole_vectors=True,
            )  # fmt: skip

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
        back = WayBack(
            spec,
            config,
            self.filtering,
            self.in_pieces,
            self.width,
            self.output,
            self.epilogue,
            self.operands,
            self.style,
        )
        with T.serial(0, panels) as panel, T.serial(0, part.count) as tile:
            number = bind(part.first + tile)
            with guarded(number < self.tiles):
                back.emit(Tile(products, group, panel, tile, *self._place(number)))

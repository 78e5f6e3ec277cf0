"""RoiAlign: channels in vectors, a bin's pixels and weights found once for all of them (`roi_taps`).

A plain feature map is copied into blocks of channels first, which takes as long as a few dozen regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import ElementType, computed_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.layout_copy import LayoutCopyConfig, PlaneTurn, copy_planes
from graphopt.backends.cpu.kernels.register_tile import ON_STACK, bind
from graphopt.backends.cpu.kernels.roi_taps import AxisTaps
from graphopt.backends.specs.layout_copy import LayoutCopySpec
from graphopt.backends.specs.roi_align import RoiAlignSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.tensors.tensor import Expr

INT64 = computed_type("int64")
_MOST_VECTORS = 8
"""Sums that are kept in registers at once: enough to hide the latency of multiply-adds."""


@dataclass(frozen=True)
class RoiAlignConfig:
    """How to compute it.

    Attributes:
        lanes: channels per vector.
        vectors: vectors of channels that are summed at once.
        parallel: whether threads share the regions.
    """

    lanes: int
    vectors: int
    parallel: bool

    @property
    def panel(self) -> int:
        """Channels that are summed at once."""
        return self.lanes * self.vectors


def supports(spec: RoiAlignSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if spec.channels % 4:
        return f"{spec.channels} channels aren't a multiple of 4"
    if spec.in_block > 1 and spec.in_block % 4:
        return f"blocks of {spec.in_block} channels"
    return None


def configurations(spec: RoiAlignSpec, caps: Caps) -> Iterator[RoiAlignConfig]:
    """The widest vectors that divide the channels, as many as fit; then fewer."""
    lanes = math.gcd(spec.channels if spec.in_block == 1 else spec.in_block, spec.types.lanes(caps))
    count = spec.channels // lanes
    for vectors in range(min(_MOST_VECTORS, count), 0, -1):
        if count % vectors == 0:
            for parallel in caps.thread_choices:
                yield RoiAlignConfig(lanes, vectors, parallel)


def default_config(spec: RoiAlignSpec, caps: Caps) -> RoiAlignConfig:
    """The first choice, on all threads."""
    return replace(next(configurations(spec, caps)), parallel=caps.cores > 1)


def emit(
    spec: RoiAlignSpec,
    config: RoiAlignConfig,
    name: str = "roi_align",
    indices: ElementType = INT64,
    check: Callable[[View], None] | None = None,
) -> tirx.PrimFunc:
    """Emits ``name(data: spec.input_shape, rois: (rois, 4), images: (rois,), output: spec.output_shape)``.

    Args:
        spec: the problem; `supports` must accept it.
        config: how to compute it.
        name: global symbol of the function.
        indices: type of the numbers of images.
        check: emits what refuses numbers of images that don't exist; without it they are clamped.
    """
    types = spec.types

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        data, rois, images = inputs
        if check is not None:
            check(images)
        form, channels = (spec, data) if spec.in_block > 1 else _in_blocks(spec, config, data)
        kernel = _Kernel(form, config, channels, rois, images, output)
        with (T.parallel if config.parallel else T.serial)(0, spec.rois) as roi:
            kernel.region(roi)

    inputs = [
        ("data", spec.input_shape, types.input),
        ("rois", (spec.rois, 4), types.weight),
        ("images", (spec.rois,), indices),
    ]
    return build_prim_func(name, inputs, (), (spec.output_shape, types.output), body)


def _in_blocks(spec: RoiAlignSpec, config: RoiAlignConfig, data: View) -> tuple[RoiAlignSpec, View]:
    """Emits a copy of a plain feature map in blocks of the channels that are summed at once."""
    block = config.panel
    copy = LayoutCopySpec(spec.batch, spec.channels, spec.height, spec.width, block, True, spec.types.input)
    target = View(T.alloc_buffer(copy.blocked_shape, spec.types.input.storage), spec.types.input)
    copy_planes(copy, LayoutCopyConfig(config.lanes, config.parallel), data, target)
    return replace(spec, in_block=block), target


@dataclass(frozen=True)
class _Kernel:
    """Emits the code of single regions."""

    spec: RoiAlignSpec
    config: RoiAlignConfig
    data: View
    rois: View
    images: View
    output: View

    def region(self, roi: Expr) -> None:
        """Emits all bins of a region."""
        spec, config = self.spec, self.config
        dtype = spec.types.sum
        taps, counts = [], []
        for axis, extent in enumerate((spec.height, spec.width)):
            start, end = (bind(self._coordinate(roi, 1 - axis + 2 * far)) for far in (0, 1))
            size = bind(end - start if spec.half_pixel else tirx.max(end - start, tirx.const(1.0, dtype)))
            taps.append(AxisTaps(spec.bins[axis], extent, spec.samples, spec.maximum, dtype))
            counts.append(taps[-1].fill(start, size))
        mean = tirx.const(1.0, dtype) / tirx.Cast(dtype, tirx.max(counts[0] * counts[1], T.int64(1)))
        factor = None if spec.maximum else bind(mean)
        last = spec.batch - 1 if isinstance(spec.batch, int) else tirx.Cast("int64", spec.batch) - 1
        image = bind(tirx.max(tirx.min(tirx.Cast("int64", self.images[roi]), last), T.int64(0)))
        points = spec.bins[0] * spec.bins[1]
        panels = spec.channels // config.panel
        held = View(T.alloc_buffer((1, points, config.panel), dtype), spec.types.accumulator)
        with T.serial(0, panels) as panel:
            with T.serial(0, spec.bins[0]) as top, T.serial(0, spec.bins[1]) as left:
                self._bin(image, panel, taps[0], top, taps[1], left, factor, held)
            self._store(roi * panels + panel, held)

    def _coordinate(self, roi: Expr, column: int) -> Expr:
        dtype = self.spec.types.sum
        shift = 0.5 if self.spec.half_pixel else 0.0
        return self.rois[roi, column] * tirx.const(self.spec.scale, dtype) - tirx.const(shift, dtype)

    def _bin(
        self, image: Expr, panel: Expr, rows: AxisTaps, top: Expr, columns: AxisTaps, left: Expr,
        factor: Expr | None, held: View,
    ) -> None:  # fmt: skip
        """Emits one bin of a panel of channels."""
        spec, config = self.spec, self.config
        dtype, lanes = spec.types.sum, config.lanes
        sums = T.alloc_buffer((config.vectors, lanes), dtype, scope="local", annotations=ON_STACK)
        everything = tirx.Ramp(T.int64(0), T.int64(1), lanes)
        begin = tirx.min_value(dtype) if spec.maximum else tirx.const(0.0, dtype)
        with T.unroll(0, config.vectors) as v:
            T.buffer_store(sums, tirx.Broadcast(begin, lanes), [v, everything])
        first_row, first_column = bind(rows.first(top)), bind(columns.first(left))
        row_count, column_count = bind(rows.first(top + 1) - first_row), bind(columns.first(left + 1) - first_column)
        with T.serial(0, row_count) as i:
            y, most_y, least_y = (bind(values[first_row + i]) for values in (rows.pixel, rows.most, rows.least))
            if factor is not None:
                most_y = bind(most_y * factor)
            with T.serial(0, column_count) as j:
                x = bind(columns.pixel[first_column + j])
                most = bind(most_y * columns.most[first_column + j])
                least = bind(least_y * columns.least[first_column + j]) if spec.maximum else most
                with T.unroll(0, config.vectors) as v:
                    pixels = self.data.load(self._place(image, panel, y, x, v))
                    value = pixels * tirx.Broadcast(most, lanes)
                    if spec.maximum:
                        value = tirx.max(sums[v, everything], tirx.max(value, pixels * tirx.Broadcast(least, lanes)))
                    else:
                        value = sums[v, everything] + value
                    T.buffer_store(sums, value, [v, everything])
        if spec.maximum:
            none = tirx.Or(tirx.EQ(row_count, 0), tirx.EQ(column_count, 0))
            outside = tirx.Or(rows.outside(top), columns.outside(left))
            with T.If(tirx.Or(none, outside)), T.Then(), T.unroll(0, config.vectors) as v:
                zero = tirx.Broadcast(tirx.const(0.0, dtype), lanes)
                T.buffer_store(sums, tirx.max(sums[v, everything], zero), [v, everything])
        point = top * spec.bins[1] + left
        with T.unroll(0, config.vectors) as v:
            held.store(sums[v, everything], [0, point, tirx.Ramp(tirx.Cast("int64", v) * lanes, T.int64(1), lanes)])

    def _place(self, image: Expr, panel: Expr, y: Expr, x: Expr, vector: Expr) -> list[Expr]:
        """Index of a vector of a pixel's channels."""
        block, lanes = self.spec.in_block, self.config.lanes
        channel = tirx.Cast("int64", panel) * self.config.panel + tirx.Cast("int64", vector) * lanes
        lane = tirx.Ramp(tirx.floormod(channel, block), T.int64(1), lanes)
        return [image, tirx.floordiv(channel, block), y, x, lane]

    def _store(self, row: Expr, held: View) -> None:
        """Emits the writing of a panel's bins, which the result has a channel after the other."""
        spec, config = self.spec, self.config
        points = spec.bins[0] * spec.bins[1]
        flat = self.output.reshaped((spec.rois * spec.channels, points))
        copy = LayoutCopySpec(1, config.panel, *spec.bins, config.panel, False, spec.types.output)
        PlaneTurn(copy, LayoutCopyConfig(config.lanes, False), held, flat, T.int64(0)).plane(row, T.int64(0), points)

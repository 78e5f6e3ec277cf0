"""Storing a register tile of a convolution: in planes, or in blocks of channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.conv2d_tile import Conv2dConfig
from graphopt.backends.cpu.kernels.opaque import opaque
from graphopt.backends.cpu.kernels.plain_store import Finish, PlainStore
from graphopt.backends.cpu.kernels.register_tile import RegisterTile
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.slices import Image
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import StoreStyle


def stores_by_block(spec: Conv2dSpec, config: Conv2dConfig, style: StoreStyle) -> bool:
    """Whether a tile's blocks of channels are stored one after the other, each from an address of its own.

    Of several, LLVM would take one address for all: then only those in the first block lie near enough to be stored in pairs.
    """
    several = spec.out_block < config.oc_panel and config.oc_panel % spec.out_block == 0
    whole = spec.out_block % config.lanes == 0 and spec.out_channels % config.oc_panel == 0
    return (
        several
        and whole
        and config.by_lane > 1
        and not config.dot
        and style is StoreStyle.unrolled
        and spec.out_block > 1
    )


_STORED_BYTES = 16
"""Of a store: those of ARM's vectors."""


def _stored_together(spec: Conv2dSpec, config: Conv2dConfig) -> int:
    """Channels that are stored at once: bytes come from several vectors of sums where one instruction narrows two of them."""
    if config.by_lane > 1 and spec.types.output.bytes == 1 and spec.out_block % config.lanes == 0:
        together = math.gcd(math.gcd(config.oc_panel, spec.out_block), _STORED_BYTES)
        if together % config.lanes == 0:
            return together
    return math.gcd(config.lanes, spec.out_block)


@dataclass(frozen=True)
class TileStores:
    """Emits the stores of one tile.

    Attributes:
        spec: the convolution.
        config: its tiles.
        output: the whole result.
        finish: the epilogue.
        style: how the loops around it are written.
        pixel: output row and column of a tile's point.
    """

    spec: Conv2dSpec
    config: Conv2dConfig
    output: View
    finish: Finish
    style: StoreStyle
    pixel: Callable[[tirx.Expr], tuple[tirx.Expr, tirx.Expr]]

    def in_blocks(self, accumulators: RegisterTile, first: tirx.Expr, image: Image) -> None:
        """Emits the stores of all channels from ``first`` on into NCHW{b}c; with `opaque_imported` if `stores_by_block`."""
        spec, config = self.spec, self.config
        if stores_by_block(spec, config, self.style):
            for number in range(config.oc_panel // spec.out_block):
                self._block(accumulators, first, image, number)
            return

        def store(value: tirx.Expr, point: tirx.Expr, channel: tirx.Expr) -> None:
            h, w = self.pixel(point)
            block, lane = tirx.floordiv(channel, spec.out_block), tirx.floormod(channel, spec.out_block)
            self.output.store(self.finish(value, point, channel), [image, block, h, w, lane])

        together = _stored_together(spec, config)
        accumulators.store_vectors(first, spec.out_channels, store, self.style, together)

    def _block(self, accumulators: RegisterTile, first: tirx.Expr, image: Image, number: int) -> None:
        """Emits the stores of one of the tile's blocks."""
        width, lanes = self.spec.out_block, accumulators.lanes
        block = tirx.floordiv(first, width) + number
        if number:
            block = opaque(block)

        start = first + number * width
        with T.unroll(0, width // lanes) as v, T.unroll(0, accumulators.points) as p, T.vectorized(0, lanes) as lane:
            place, (h, w) = v * lanes + lane, self.pixel(p)
            value = accumulators.finished(p, number * width // lanes + v, lane)
            self.output.store(self.finish(value, p, start + place), [image, block, h, w, place])

    def plain(
        self,
        accumulators: RegisterTile,
        first: tirx.Expr,
        image: Image,
        corner: tuple[tirx.Expr, tirx.Expr],
        width: int,
        pointwise: bool,
    ) -> None:
        """Emits the stores into NCHW.

        Args:
            accumulators: the tile.
            first: its first channel.
            image: number of the image.
            corner: row and column of the first pixel.
            width: pixels of a row of the tile.
            pointwise: whether the epilogue depends on the point.
        """
        spec = self.spec
        top, left = corner
        whole = spec.pointwise or width == spec.out_width
        flat = self.output.reshaped((math.prod(self.output.shape),))

        def place(point: tirx.Expr, channel: tirx.Expr) -> tirx.Expr:
            if spec.slices is None:
                plane: tirx.Expr = tirx.Cast("int64", image) * spec.out_channels + channel
            else:
                batch, at = (tirx.Cast("int64", part) for part in spec.slices.split(image))
                plane = (batch * spec.out_channels + channel) * spec.slices.count + at
            plane = plane * (spec.out_height * spec.out_width)
            if whole:
                return plane + (top * spec.out_width + left + point)
            h, w = self.pixel(point)
            return plane + (h * spec.out_width + w)

        run = accumulators.points if whole else width
        PlainStore(flat, place, spec.out_channels, run, self.finish, pointwise, self.style).emit(accumulators, first)

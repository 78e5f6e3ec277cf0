"""What tiles of direct convolutions fetch ahead of data and output, beside weights (`prefetch`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.conv2d_tile import Conv2dConfig
from graphopt.backends.cpu.kernels.prefetch import LINE_BYTES, prefetch
from graphopt.backends.cpu.kernels.register_tile import guarded
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.slices import Image
from graphopt.backends.templates.operand import View

_CHANNELS_AHEAD = 8
"""How many steps ahead the points of a plain input are fetched into L1: some hundred cycles, a trip to the last level."""
_LINE = LINE_BYTES // 4


@dataclass(frozen=True)
class TileFetching:
    """Emits prefetches for a tile.

    Attributes:
        spec: the problem as tiles compute it.
        config: the tile; nothing is emitted where it says so.
        data: the input.
        output: the result.
        pixel: output row and column of a point: ``(top, left, width, point)``.
        steps: of the loop over a group of channels.
        blocks: groups of channels.
    """

    spec: Conv2dSpec
    config: Conv2dConfig
    data: View
    output: View
    pixel: Callable[[tirx.Expr, tirx.Expr, int, tirx.Expr], tuple[tirx.Expr, tirx.Expr]]
    steps: int
    blocks: int

    def of_data(
        self, image: Image, block: tirx.Expr, lane: tirx.Expr, top: tirx.Expr, left: tirx.Expr, width: int
    ) -> None:
        """Emits the prefetch of the tile's points in the next block of channels, one line or more a lane.

        Of a plain input, those of a channel some steps ahead: a tile's channels lie pages apart, which no hardware foresees.
        Only for kernels of one element: others read every point several times.
        """
        spec = self.spec
        if not self.config.prefetch:
            return
        if spec.in_block == 1 and spec.slices is not None:
            return  # which slice the later channel is of would be a division a step
        if spec.kernel == (1, 1) and spec.in_block == 1:
            channel = block * self.steps + lane + _CHANNELS_AHEAD
            points = -(-_LINE // spec.strides[1])
            for point in dict.fromkeys((*range(0, width, points), width - 1)):
                h, w = self.pixel(top, left, width, T.int64(point))
                prefetch(self.data, [image, channel, h * spec.strides[0], w * spec.strides[1]])
            return
        if spec.kernel != (1, 1) or spec.in_block * spec.types.input.bytes < LINE_BYTES:
            return
        with T.unroll(0, -(-width // self.steps)) as i:
            h, w = self.pixel(top, left, width, lane + i * self.steps)
            prefetch(self.data, [image, block + 1, h * spec.strides[0], w * spec.strides[1], 0])

    def of_output(
        self, image: Image, panel: tirx.Expr, block: tirx.Expr, top: tirx.Expr, left: tirx.Expr, width: int
    ) -> None:
        """Emits the prefetch of a share of the tile's lines in a plain output, whose channels lie pages apart."""
        spec, config = self.spec, self.config
        if spec.out_block != 1 or not config.prefetch:
            return
        blocks = self.blocks
        share = -(-config.oc_panel // blocks)
        with T.serial(0, share) as i:
            channel = block * share + i
            with guarded(channel < config.oc_panel if share * blocks > config.oc_panel else None):
                for point in dict.fromkeys((*range(0, width, _LINE), width - 1)):
                    h, w = self.pixel(top, left, width, T.int64(point))
                    prefetch(self.output, [image, panel * config.oc_panel + channel, h, w])

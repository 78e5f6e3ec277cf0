"""Tiles of Winograd convolution: how a problem is cut into them, and how weights are transformed and packed for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import multiplied_together
from graphopt.backends.base.element_type import HALF
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels.phases import of_phases, packing_of_phases
from graphopt.backends.cpu.kernels.slices import packing_of_slices
from graphopt.backends.cpu.kernels.winograd_integers import IntegerFiltering
from graphopt.backends.cpu.kernels.winograd_transforms import Filtering, HalfFiltering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.packed_array import aligned_copy, interleaved
from graphopt.ir.graph import Array

TAPS = 9
"""Elements of a kernel whose weights are transformed on the way."""


@dataclass(frozen=True)
class WinogradConfig:
    """How to compute it.

    Attributes:
        m: output rows and columns of a tile: 2 or 4 with kernels of 3 x 3, 3 with 4 x 4, 2 with 5 x 5.
        lanes: sums per accumulator vector; a divisor or a multiple of the output's block.
        oc_vectors: accumulator vectors of output channels per panel.
        points: tiles per register tile.
        block: tiles transformed together.
        group: panels whose products are computed before they are transformed back, component by component: the
            patches are read once a group.
        by_group: threads take groups, and one block holds all tiles, or as many as are likely where run time tells their number;
            otherwise threads take blocks.
        private: with ``by_group``: each thread transforms all patches for itself, once a group. What another core has in its cache
            is dear to fetch, and there is nothing to wait for.
        dot: name of the dot product that multiplies integers; none by default.
        depth: with ``by_group`` and not ``private``: weights are stored as they are, and those of so many input channels, a
            multiple of their block, are transformed at a time on the way; 0 where they are stored transformed.
        by_lane: neighbouring channels of a patch that come with one load, for multiply-adds by lane; 1 for one at a time.
        prefetch: whether operands are fetched ahead that come from beyond the near caches.
        taps: rows and columns of the kernel; of its part that meets a phase where there are phases.
        stride: 2 where channels are phases of the data (`phases`).
    """

    m: int
    lanes: int
    oc_vectors: int
    points: int
    block: int
    group: int = 1
    by_group: bool = False
    private: bool = False
    dot: str = ""
    depth: int = 0
    by_lane: int = 1
    prefetch: bool = True
    taps: int = 3
    stride: int = 1

    @property
    def side(self) -> int:
        """Rows and columns of a patch."""
        return self.m + self.taps - 1

    @property
    def together(self) -> int:
        """Channels that are multiplied at once."""
        return multiplied_together(self.dot)

    @property
    def panel(self) -> int:
        """Output channels per panel."""
        return self.lanes * self.oc_vectors


_TAKEN = (
    "only 3 x 3 kernels with stride 1, of floats on ARM also 5 x 5, and larger ones with stride 2 over a few planes of even "
    "size; no dilation and one group"
)


def supports(spec: Conv2dSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if min(spec.pads) < 0:
        return "negative padding"
    whole, spec = spec, of_phases(spec)
    if spec.strides != (1, 1) or spec.dilations != (1, 1) or spec.groups != 1:
        return _TAKEN
    if (whole.strides != (1, 1) or spec.kernel != (3, 3)) and not _takes_large(spec, caps):
        return _TAKEN
    if spec.in_block < 4 or spec.out_block < 4:
        return "needs channels in blocks"
    if spec.in_channels % spec.in_block or spec.out_channels % spec.out_block:
        return "channels aren't a multiple of their block"
    if min(spec.in_channels, spec.out_channels, *(spec.static_plane or ())) < 1:
        return "an empty dimension"
    return None


def _takes_large(spec: Conv2dSpec, caps: Caps) -> bool:
    """Whether kernels of another size are taken: where transforms are cut to fit the registers, and sums are in float32."""
    suits = spec.slices is None and not spec.types.of_integers and spec.types.accumulator is not HALF
    return caps.multiplies_by_lane and suits and spec.kernel in ((3, 3), (4, 4), (5, 5))


def tile_grid(spec: Conv2dSpec, m: int) -> tuple[tirx.Expr | int, tirx.Expr | int]:
    """Tiles along the height and the width."""
    return ceil_div(spec.out_height, m), ceil_div(spec.out_width, m)


def packed_weight_shape(spec: Conv2dSpec, config: WinogradConfig) -> tuple[int, ...]:
    """Shape of the transformed weights, (groups, components, panels of a group, C / t, panel width), or that of `RawPacking`.

    ``t`` channels lie together in 32 bits where there is a dot product.
    """
    groups = -(-spec.out_channels // (config.panel * config.group))
    if config.depth:
        return groups, -(-spec.in_channels // config.depth), config.group, config.depth, TAPS, config.panel
    return groups, config.side**2, config.group, spec.in_channels // config.together, config.panel


@dataclass(frozen=True)
class TransformedPacking(Packing):
    """OIHW weights transformed, as (groups, components, I, panels of a group, panel width), filled up with zero channels.

    Attributes:
        m: outputs of a tile along one axis.
        panels: panels of a group.
        width: output channels of a panel.
        together: how many input channels lie side by side in 32 bits (`interleaved`): integers, transformed to integers.
        halves: whether they are transformed for products in float16.
        taps: rows and columns of a kernel.
    """

    m: int
    panels: int
    width: int
    together: int = 1
    halves: bool = False
    taps: int = 3

    def packed(self, array: Array) -> Array:
        """Transformed, filled up, and turned in one copy."""
        outputs, inputs = self.shape[:2]
        groups = -(-outputs // (self.panels * self.width))
        filtering: Filtering | IntegerFiltering = IntegerFiltering(self.m)
        if self.together == 1:
            filtering = HalfFiltering(self.m) if self.halves else Filtering(self.m, self.taps)
        transformed = filtering.weight(array)
        missing = groups * self.panels * self.width - outputs
        if missing:
            transformed = np.pad(transformed, ((0, 0), (0, 0), (0, missing)))
        cut = transformed.reshape(-1, inputs, groups, self.panels, self.width)
        turned = cut.transpose(2, 0, 3, 1, 4)
        return aligned_copy(turned) if self.together == 1 else interleaved(turned, self.together)


@dataclass(frozen=True)
class RawPacking(Packing):
    """OIHW weights as (groups, blocks of channels, panels of a group, channels of a block, taps, panel width).

    All that is transformed together lies together. Filled up with zeros.

    Attributes:
        panels: panels of a group.
        width: output channels of a panel.
        depth: input channels of a block.
    """

    panels: int
    width: int
    depth: int

    def packed(self, array: Array) -> Array:
        """As float32, filled up, and turned in one copy."""
        array = array.astype(np.float32, copy=False)
        outputs, inputs = self.shape[:2]
        missing = -outputs % (self.panels * self.width), -inputs % self.depth
        if any(missing):
            array = np.pad(array, ((0, missing[0]), (0, missing[1]), (0, 0), (0, 0)))
        cut = array.reshape(-1, self.panels, self.width, array.shape[1] // self.depth, self.depth, TAPS)
        return aligned_copy(cut.transpose(0, 3, 1, 4, 5, 2))


def packing(spec: Conv2dSpec, config: WinogradConfig) -> Packing:
    """How weights are packed."""
    phases = of_phases(spec)
    shape = (spec.out_channels, phases.in_channels, config.taps, config.taps)
    order: Packing
    if config.depth:
        order = RawPacking(shape, config.group, config.panel, config.depth)
    else:
        halves = spec.types.accumulator is HALF
        order = TransformedPacking(shape, config.m, config.group, config.panel, config.together, halves, config.taps)
    return packing_of_phases(spec, packing_of_slices(spec, order))

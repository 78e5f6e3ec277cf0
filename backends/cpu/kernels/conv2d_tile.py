"""Register tiles of direct convolution: how a problem is cut into them, and how weights are packed for them."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import multiplied_together
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels.panel_packing import PanelPacking
from graphopt.backends.cpu.kernels.rows_together import RowPacking, row_form
from graphopt.backends.cpu.kernels.slices import packing_of_slices
from graphopt.backends.cpu.kernels.tiling import Named, Segment, split_balanced, split_by_taps, split_symbolic_window
from graphopt.backends.specs.convolution import Conv2dSpec, channel_group


@dataclass(frozen=True)
class Conv2dConfig:
    """How to compute it.

    Attributes:
        lanes: sums per accumulator vector; a divisor or a multiple of ``out_block`` unless the output is plain.
        oc_vectors: vectors of output channels per register tile.
        ow_tile: output columns per register tile (pixels of the flattened plane for a pointwise convolution).
        oh_tile: output rows per register tile; more than one pays for narrow outputs. Symbolic sizes take one.
        cache_tiles: spatial tiles whose input stays in cache while all channels are computed; 0 for a whole image.
        parallel: whether it is worth the start of other threads.
        dot: name of the dot product that multiplies groups of channels; none by default.
        by_lane: neighbouring channels of a point, or pixels of a plain row, that come with one load, for multiply-adds by lane; 1
            for one at a time.
        prefetch: whether operands are fetched ahead that come from beyond the near caches.
    """

    lanes: int
    oc_vectors: int
    ow_tile: int
    oh_tile: int = 1
    cache_tiles: int = 0
    parallel: bool = True
    dot: str = ""
    by_lane: int = 1
    prefetch: bool = True

    @property
    def together(self) -> int:
        """Channels that are multiplied at once."""
        return multiplied_together(self.dot)

    @property
    def oc_panel(self) -> int:
        """Output channels per register tile."""
        return self.lanes * self.oc_vectors

    @property
    def accumulators(self) -> int:
        """Vector registers that hold sums."""
        return self.oc_vectors * self.ow_tile * self.oh_tile


def supports(spec: Conv2dSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if spec.groups != 1:
        return "grouped convolutions aren't supported"
    if spec.in_channels % spec.in_block:
        return f"{spec.in_channels} input channels aren't a multiple of the input's block of {spec.in_block}"
    if spec.out_channels % spec.out_block:
        return f"{spec.out_channels} output channels aren't a multiple of the output's block of {spec.out_block}"
    if min(spec.pads) < 0:
        return "negative padding"
    if min(spec.in_channels, spec.out_channels, *(spec.static_plane or ())) < 1:
        return "an empty dimension"
    return None


def computed_form(spec: Conv2dSpec, config: Conv2dConfig) -> Conv2dSpec:
    """The convolution that tiles cut: the problem, or that of its rows."""
    return row_form(spec, config.together)


def segments(
    spec: Conv2dSpec, config: Conv2dConfig, named: Named = lambda value: value
) -> tuple[list[Segment], list[Segment]]:
    """The tiles along rows and columns; parts that are expressions go through ``named``."""
    spec = computed_form(spec, config)
    out_rows, out_columns = plane(spec)
    if isinstance(out_columns, int):
        columns = split_balanced(out_columns, config.ow_tile)
        if any(spec.pads):
            columns = split_by_taps(columns, spec.window(1))
    else:
        columns = split_symbolic_window(out_columns, config.ow_tile, spec.window(1), spec.pads[3], named)
    if not isinstance(out_rows, int):
        return [Segment(0, 1, out_rows)], columns
    rows = split_balanced(out_rows, config.oh_tile)
    if any(spec.pads) and config.oh_tile > 1:
        rows = split_by_taps(rows, spec.window(0))
    return rows, columns


def plane(spec: Conv2dSpec) -> tuple[tirx.Expr | int, tirx.Expr | int]:
    """Rows and columns to tile: a pointwise convolution has one long row."""
    if spec.pointwise:
        return 1, spec.out_height * spec.out_width
    return spec.out_height, spec.out_width


def packed_weight_shape(spec: Conv2dSpec, config: Conv2dConfig) -> tuple[int, int, int, int, int, int]:
    """Shape of the packed weights: (panels, C / g, kernel height, kernel width, g / t, panel width), of the computed form.

    ``g`` is `channel_group`; ``t`` channels lie together in 32 bits where there is a dot product.
    """
    spec = computed_form(spec, config)
    panels = -(-spec.out_channels // config.oc_panel)
    group = channel_group(spec, config.together)
    return panels, -(-spec.in_channels // group), *spec.kernel, group // config.together, config.oc_panel


def packing(spec: Conv2dSpec, config: Conv2dConfig) -> Packing:
    """How weights are packed."""
    form = computed_form(spec, config)
    shape = (spec.out_channels, form.in_channels, *form.kernel)
    panels = PanelPacking(shape, config.oc_panel, channel_group(form, config.together), config.together)
    return (
        packing_of_slices(spec, panels)
        if form is spec
        else RowPacking((spec.out_channels, spec.in_channels, *spec.kernel), panels)
    )

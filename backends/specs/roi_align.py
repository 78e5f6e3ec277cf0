"""What a RoiAlign kernel is asked to compute."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.specs.types import SINGLE, KernelTypes
from graphopt.backends.tensors.tensor import Expr


@dataclass(frozen=True)
class RoiAlignSpec:
    """Bins of regions of a feature map, each the mean or the maximum of bilinear samples.

    Attributes:
        batch, height, width: of the feature map, ints or symbolic.
        channels: its channels.
        rois: how many regions; an int or symbolic.
        bins: bins of a region, (vertical, horizontal).
        samples: samples along each side of a bin; 0 for as many as a bin has pixels along it, rounded up.
        scale: pixels of the feature map per unit of the regions' coordinates.
        half_pixel: whether coordinates are those of pixels' corners, so that pixel centers lie half a pixel further, and
            regions may be smaller than a pixel.
        maximum: whether bins are maxima, of the products of pixels and weights that the samples are sums of; else means.
        in_block: channels innermost in the feature map: ``(N, C / b, H, W, b)``, or plain NCHW if 1.
        types: element types of feature map (input), regions (weight), sums and result: float32.
    """

    batch: Expr
    channels: int
    height: Expr
    width: Expr
    rois: Expr
    bins: tuple[int, int]
    samples: int
    scale: float
    half_pixel: bool
    maximum: bool
    in_block: int = 1
    types: KernelTypes = SINGLE

    @property
    def input_shape(self) -> tuple[Expr, ...]:
        """Physical shape of the feature map."""
        if self.in_block == 1:
            return self.batch, self.channels, self.height, self.width
        return self.batch, self.channels // self.in_block, self.height, self.width, self.in_block

    @property
    def output_shape(self) -> tuple[Expr, ...]:
        """Shape of the result, which is plain."""
        return self.rois, self.channels, *self.bins

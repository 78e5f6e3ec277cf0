"""What a 2-D convolution kernel is asked to compute, whatever the algorithm."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.slices import Slices
from graphopt.backends.specs.types import SINGLE, KernelTypes
from graphopt.backends.specs.window import Window

_PLAIN_GROUP = 16
"""Most channels of a plain input that the innermost loop takes."""


@dataclass(frozen=True)
class Conv2dSpec:
    """One 2-D convolution (cross-correlation, as in ONNX Conv).

    Attributes:
        batch: images; an int or a symbolic ``tirx.Var``.
        in_channels: input channels.
        in_height: input rows; an int or a symbolic ``tirx.Var``.
        in_width: input columns; an int or a symbolic ``tirx.Var``.
        out_channels: output channels.
        kernel: kernel (height, width).
        strides: steps (vertical, horizontal).
        pads: zeros around the input (top, left, bottom, right).
        dilations: kernel steps (vertical, horizontal).
        groups: channel groups.
        in_block: channels innermost in the input: ``(N, C / b, H, W, b)``, or plain NCHW if 1.
        out_block: the same of the output.
        types: element types of data, weights, sums and result.
        nominal: images, and rows and columns of the output, that are assumed where they are symbolic.
        sum_bits: bits, that of the sign included, in which sums of integers fit with the weights at hand; 32 for other sums.
        slices: for a convolution over three axes, how its slices are the images that all else describes; None for one over two.
    """

    batch: tirx.Expr | int
    in_channels: int
    in_height: tirx.Expr | int
    in_width: tirx.Expr | int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    in_block: int = 1
    out_block: int = 1
    types: KernelTypes = SINGLE
    sum_bits: int = 32
    slices: Slices | None = None
    nominal: tuple[int, int, int] = (1, 56, 56)

    @property
    def out_height(self) -> tirx.Expr | int:
        """Output rows."""
        window = (self.kernel[0] - 1) * self.dilations[0] + 1
        return (self.in_height + self.pads[0] + self.pads[2] - window) // self.strides[0] + 1

    @property
    def out_width(self) -> tirx.Expr | int:
        """Output columns."""
        window = (self.kernel[1] - 1) * self.dilations[1] + 1
        return (self.in_width + self.pads[1] + self.pads[3] - window) // self.strides[1] + 1

    @property
    def data_channels(self) -> int:
        """Channels of the data: an image of slices has them once for each slice that the kernel reaches."""
        return self.in_channels if self.slices is None else self.slices.channels

    @property
    def reduction(self) -> int:
        """Products summed into one output element."""
        return self.in_channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def sums_integers(self) -> bool:
        """Whether operands are integers, in whatever type they are added up, and no sum is rounded."""
        return self.types.of_integers or self.sum_bits < 32

    @property
    def flops(self) -> int | None:
        """Multiplies plus additions, those with padding included; None if a size is symbolic."""
        if not isinstance(self.batch, int) or self.static_plane is None:
            return None
        height, width = self.static_plane
        return 2 * self.batch * self.out_channels * height * width * self.reduction

    @property
    def static_plane(self) -> tuple[int, int] | None:
        """Output rows and columns if both are known."""
        height, width = self.out_height, self.out_width
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    @property
    def assumed(self) -> tuple[int, int, int]:
        """Images, output rows and output columns, assumed where they are symbolic."""
        known = self.batch, self.out_height, self.out_width
        images, rows, columns = (d if isinstance(d, int) else n for d, n in zip(known, self.nominal))
        return images, rows, columns

    @property
    def pointwise(self) -> bool:
        """Whether output pixels each read the input pixel at their place, so that the plane is one flat axis."""
        return (
            self.static_plane is not None
            and self.kernel == (1, 1)
            and self.strides == (1, 1)
            and self.pads == (0, 0, 0, 0)
        )

    def window(self, axis: int) -> Window:
        """How the kernel slides along the height (0) or the width (1)."""
        extent = (self.in_height, self.in_width)[axis]
        return Window(extent, self.kernel[axis], self.strides[axis], self.dilations[axis], self.pads[axis])

    @property
    def input_shape(self) -> tuple[tirx.Expr | int, ...]:
        """Physical shape of the input."""
        if self.slices is None:
            return self._physical(self.batch, self.in_channels, (self.in_height, self.in_width), self.in_block)
        extents = (self.slices.depth, self.in_height, self.in_width)
        return self._physical(self.slices.batch, self.slices.channels, extents, self.in_block)

    @property
    def output_shape(self) -> tuple[tirx.Expr | int, ...]:
        """Physical shape of the output."""
        if self.slices is None:
            return self._physical(self.batch, self.out_channels, (self.out_height, self.out_width), self.out_block)
        extents = (self.slices.count, self.out_height, self.out_width)
        return self._physical(self.slices.batch, self.out_channels, extents, self.out_block)

    def _physical(
        self, batch: tirx.Expr | int, channels: int, extents: tuple[tirx.Expr | int, ...], block: int
    ) -> tuple[tirx.Expr | int, ...]:
        return (batch, channels, *extents) if block == 1 else (batch, channels // block, *extents, block)


def channel_group(spec: Conv2dSpec, together: int = 1) -> int:
    """Input channels of the innermost loop: those of a block, or as many of a plain input; a multiple of ``together``.

    The only group may have more channels than there are, for these to be; 0 if that can't be.

    One channel at a time would make the elements of a kernel's row innermost: LLVM unrolls those few, keeps the points that they
    share in registers, and spills the accumulators for it.
    """
    if spec.in_block > 1:
        return spec.in_block if spec.in_block % together == 0 else 0
    channels = spec.data_channels
    if channels <= _PLAIN_GROUP:
        return -(-channels // together) * together
    return next((g for g in range(_PLAIN_GROUP, 0, -1) if channels % g == 0 and g % together == 0), 0)

"""Transposed convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.types import SINGLE, KernelTypes


@dataclass(frozen=True)
class TransposedSpec:
    """One transposed convolution in one group (ONNX ConvTranspose, dilation 1).

    Attributes:
        batch: images; an int or a symbolic ``tirx.Var``.
        in_channels: input channels.
        height: input rows; an int or a symbolic ``tirx.Var``.
        width: input columns; an int or a symbolic ``tirx.Var``.
        out_channels: output channels.
        kernel: kernel (height, width).
        strides: steps (vertical, horizontal), not above the kernel's extents.
        pads: rows and columns that the result lacks (top, left, bottom, right), output padding subtracted.
        in_block: channels innermost in the data, 1 if plain.
        out_block: the same of the result.
        types: element types of data, weights, sums and result.
    """

    batch: tirx.Expr | int
    in_channels: int
    height: tirx.Expr | int
    width: tirx.Expr | int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    in_block: int = 1
    out_block: int = 1
    types: KernelTypes = SINGLE

    def out_extent(self, axis: int) -> tirx.Expr | int:
        """Output rows (0) or columns (1)."""
        extent = (self.height, self.width)[axis]
        return (extent - 1) * self.strides[axis] + self.kernel[axis] - self.pads[axis] - self.pads[axis + 2]

    @property
    def input_shape(self) -> tuple[tirx.Expr | int, ...]:
        """Physical shape of the data."""
        return _physical(self.batch, self.in_channels, self.height, self.width, self.in_block)

    @property
    def output_shape(self) -> tuple[tirx.Expr | int, ...]:
        """Physical shape of the result."""
        return _physical(self.batch, self.out_channels, self.out_extent(0), self.out_extent(1), self.out_block)

    def taps(self, axis: int, phase: int) -> range:
        """Kernel elements of a phase, last first: the order in which they meet the data."""
        remainder = (phase + self.pads[axis]) % self.strides[axis]
        return range(remainder, self.kernel[axis], self.strides[axis])[::-1]

    def phase(self, vertical: int, horizontal: int) -> Conv2dSpec:
        """The convolution that gives the output rows and columns of a phase."""
        lead, trail, kernel = [0, 0], [0, 0], [0, 0]
        for axis, phase in enumerate((vertical, horizontal)):
            stride, taps = self.strides[axis], self.taps(axis, phase)
            kernel[axis] = len(taps)
            lead[axis] = len(taps) - 1 - (phase + self.pads[axis]) // stride
            # rows of the phase: ceil((out_extent - phase) / stride) = extent + more
            more = -(-(self.kernel[axis] - self.pads[axis] - self.pads[axis + 2] - phase) // stride) - 1
            trail[axis] = more + len(taps) - 1 - lead[axis]
        return Conv2dSpec(
            self.batch, self.in_channels, self.height, self.width, self.out_channels, (kernel[0], kernel[1]),
            pads=(lead[0], lead[1], trail[0], trail[1]), in_block=self.in_block, out_block=self.out_block, types=self.types,
        )  # fmt: skip


def _physical(
    batch: tirx.Expr | int, channels: int, height: tirx.Expr | int, width: tirx.Expr | int, block: int
) -> tuple[tirx.Expr | int, ...]:
    return (batch, channels, height, width) if block == 1 else (batch, channels // block, height, width, block)


@dataclass(frozen=True)
class PatchSpec:
    """One transposed convolution with kernel = stride, no padding, one group.

    Attributes:
        batch: images; an int or a symbolic ``tirx.Var``.
        in_channels: input channels.
        height: input rows; an int or a symbolic ``tirx.Var``.
        width: input columns; an int or a symbolic ``tirx.Var``.
        out_channels: output channels.
        scale: rows and columns of a patch.
        types: element types of data, weights, sums and result.
    """

    batch: tirx.Expr | int
    in_channels: int
    height: tirx.Expr | int
    width: tirx.Expr | int
    out_channels: int
    scale: tuple[int, int]
    types: KernelTypes = SINGLE

    @property
    def input_shape(self) -> tuple[tirx.Expr | int, ...]:
        """Shape of the data."""
        return self.batch, self.in_channels, self.height, self.width

    @property
    def output_shape(self) -> tuple[tirx.Expr | int, ...]:
        """Shape of the result."""
        return self.batch, self.out_channels, self.height * self.scale[0], self.width * self.scale[1]

    @property
    def lines(self) -> int:
        """Output rows that an input row becomes, of all channels."""
        return self.out_channels * self.scale[0]

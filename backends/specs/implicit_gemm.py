"""Convolutions of any rank, and products of matrices, as one product of matrices: what kernels with staged tiles compute.

A convolution's rows are its output points, its columns the output channels, and what is summed over are elements of the window
times input channels. A product of matrices is a convolution without windows whose batch are the rows. Nothing is copied into a
matrix of windows: kernels find the elements of a row where they lie (Chetlur et al., "cuDNN: Efficient Primitives for Deep
Learning", 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.types import SINGLE, KernelTypes
from graphopt.backends.specs.window import Window


@dataclass(frozen=True)
class Phases:
    """A transposed convolution as convolutions of stride 1, one for each place of a result within a stride.

    Result ``q * stride + phase`` of an axis meets elements ``r, r + stride, ...`` of the kernel, where ``r`` is the rest of
    ``phase + lead`` by the stride: the windows of a phase move by one as ``q`` does, over as many elements as the longest has.

    Attributes:
        strides: of the transposed convolution, by spatial axis.
        leads: its padding before the result.
        extents: of the result.
    """

    strides: tuple[int, ...]
    leads: tuple[int, ...]
    extents: tuple[tirx.Expr | int, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return math.prod(self.strides)


@dataclass(frozen=True)
class ImplicitGemmSpec:
    """``out[row, n] = sum over k of data(row, k) * weight[n, k]``, in ``groups`` independent parts.

    Attributes:
        batch: images, or rows of a matrix; an int or a symbolic ``tirx.Var``.
        in_channels: channels of the data, all groups together; columns of a matrix.
        out_channels: the same of the result.
        windows: how the kernel slides along each spatial axis; none for a matrix.
        trails: padding behind the data, by spatial axis.
        groups: channel groups.
        data_last: whether the channels of the data are innermost in memory; else outside of the spatial axes.
        result_last: the same of the result.
        types: element types of data, weights, sums and result.
        phases: of a transposed convolution; rows, windows and weights are those of one phase then.
    """

    batch: tirx.Expr | int
    in_channels: int
    out_channels: int
    windows: tuple[Window, ...] = ()
    trails: tuple[int, ...] = ()
    groups: int = 1
    data_last: bool = True
    result_last: bool = True
    types: KernelTypes = field(default=SINGLE)
    phases: Phases | None = None

    @property
    def outputs(self) -> tuple[tirx.Expr | int, ...]:
        """Extents of the spatial axes that rows are points of: those of the result, or of a phase."""
        if self.phases is not None:
            return tuple((e + (s - 1)) // s for e, s in zip(self.phases.extents, self.phases.strides))
        return tuple(
            (w.extent + w.lead + trail - ((w.kernel - 1) * w.dilation + 1)) // w.stride + 1
            for w, trail in zip(self.windows, self.trails)
        )

    @property
    def taps(self) -> int:
        """Elements of a window."""
        return math.prod(w.kernel for w in self.windows)

    @property
    def depth(self) -> int:
        """Products in a sum."""
        return self.taps * self.group_channels

    @property
    def group_channels(self) -> int:
        """Input channels of a group."""
        return self.in_channels // self.groups

    @property
    def columns(self) -> int:
        """Output channels of a group."""
        return self.out_channels // self.groups

    @property
    def rows(self) -> tirx.Expr | int:
        """Points of the result."""
        total: tirx.Expr | int = self.batch
        for extent in self.outputs:
            total = total * extent
        return total

    @property
    def static_rows(self) -> int | None:
        """``rows`` if they are known."""
        return self.rows if isinstance(self.rows, int) else None

    @property
    def parts(self) -> int:
        """Products that have weights of their own: groups, and phases of each."""
        return self.groups * (1 if self.phases is None else self.phases.count)

    @property
    def flops(self) -> int | None:
        """Multiplies plus additions, those with padding included; None if a size is symbolic."""
        return None if self.static_rows is None else 2 * self.static_rows * self.columns * self.parts * self.depth

    @property
    def data_shape(self) -> tuple[tirx.Expr | int, ...]:
        """Physical shape of the data."""
        extents = [w.extent for w in self.windows]
        return (self.batch, *extents, self.in_channels) if self.data_last else (self.batch, self.in_channels, *extents)

    @property
    def result_shape(self) -> tuple[tirx.Expr | int, ...]:
        """Physical shape of the result."""
        outputs = self.outputs if self.phases is None else self.phases.extents
        return (
            (self.batch, *outputs, self.out_channels) if self.result_last else (self.batch, self.out_channels, *outputs)
        )

"""Convolution with stride 2 as one with stride 1 over the four phases of its data: rows and columns of even and of odd number.

A tap of the kernel reaches either even or odd positions, whatever the output, so that each phase of the data meets its own taps
only: a kernel of r x r with stride 2 becomes one of about r/2 x r/2 with stride 1 and four times the channels (the polyphase
decomposition of filter banks; Vaidyanathan, "Multirate Systems and Filter Banks", 1993). It multiplies no more, but for taps that
fill a kernel up with zeros, and opens the way to algorithms for stride 1. The data stays where it is: its index does all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.backends.base.packing import Packing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels.slices import IndexedView
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import View
from graphopt.ir.graph import Array

_PHASES = 4
_MOST_CHANNELS = 4
"""More data comes in blocks of channels, whose vectors hold a phase each."""


def has_phases(spec: Conv2dSpec) -> bool:
    """Whether the convolution is taken apart: stride 2 over few planes with an even number of rows and columns."""
    extents = spec.in_height, spec.in_width
    return (
        spec.strides == (2, 2)
        and spec.dilations == (1, 1)
        and spec.groups == spec.in_block == 1
        and spec.slices is None
        and spec.in_channels <= _MOST_CHANNELS
        and spec.static_plane is not None
        and all(isinstance(extent, int) and extent % 2 == 0 for extent in extents)
    )


def of_phases(spec: Conv2dSpec) -> Conv2dSpec:
    """The convolution with stride 1 that a convolution is, if that `has_phases`; otherwise the same.

    All channels of its data are one block: the phases of the first one, in the order of rows and then columns, those of the second.
    """
    if not has_phases(spec):
        return spec
    kernel, pads = [], [0, 0, 0, 0]
    for axis, (extent, size) in enumerate(zip((spec.in_height, spec.in_width), spec.static_plane or ())):
        taps = ceil_div(spec.kernel[axis] + _shift(spec, axis), 2)
        before = ceil_div(spec.pads[axis], 2)
        kernel.append(taps)
        pads[axis], pads[axis + 2] = before, size + taps - 1 - before - extent // 2
    channels = _PHASES * spec.in_channels
    return replace(
        spec, in_channels=channels, in_block=channels, in_height=spec.in_height // 2, in_width=spec.in_width // 2,
        kernel=(kernel[0], kernel[1]), strides=(1, 1), pads=(pads[0], pads[1], pads[2], pads[3]),
    )  # fmt: skip


def _shift(spec: Conv2dSpec, axis: int) -> int:
    """Zero taps before the first one, so that windows begin at even positions."""
    return spec.pads[axis] % 2


def data_of_phases(data: View, spec: Conv2dSpec) -> View:
    """The data of a convolution, indexed as that of `of_phases`."""
    if not has_phases(spec):
        return data

    def place(index: Sequence[Any]) -> list[Any]:
        image, _, row, column, channel = index
        phase = tirx.floormod(channel, _PHASES)
        return [
            image,
            tirx.floordiv(channel, _PHASES),
            2 * row + tirx.floordiv(phase, 2),
            2 * column + tirx.floormod(phase, 2),
        ]

    return IndexedView(data, place)


def phases_together(planes: View, image: Any, plane: tirx.Expr, row: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
    """The phases of a plane at a row and a column of theirs, as one vector: two loads of two neighbours.

    Args:
        planes: the data as it is, (N, C, H, W).
        image: number of the image.
        plane: of the channel.
        row: of a phase.
        column: of a phase.
    """
    pairs = [planes.load([image, plane, 2 * row + i, tirx.Ramp(2 * column, 1, 2)]) for i in range(2)]
    return tirx.Shuffle(pairs, [tirx.const(i, "int32") for i in range(_PHASES)])


@dataclass(frozen=True)
class PhasePacking(Packing):
    """OIHW weights as those of phases.

    Attributes:
        shift: zero taps above and to the left.
        order: in which those are packed.
    """

    shift: tuple[int, int]
    order: Packing

    def packed(self, array: Array) -> Array:
        """Filled up with zeros, cut by phase, then packed."""
        outputs, inputs = array.shape[:2]
        rows, columns = self.order.shape[2:]
        filled = np.zeros((outputs, inputs, 2 * rows, 2 * columns), array.dtype)
        top, left = self.shift
        filled[:, :, top : top + array.shape[2], left : left + array.shape[3]] = array
        cut = filled.reshape(outputs, inputs, rows, 2, columns, 2).transpose(0, 1, 3, 5, 2, 4)
        return self.order(np.ascontiguousarray(cut).reshape(self.order.shape))


def packing_of_phases(spec: Conv2dSpec, order: Packing) -> Packing:
    """How the weights of a convolution are packed, given how those of `of_phases` are."""
    if not has_phases(spec):
        return order
    shape = (spec.out_channels, spec.in_channels, *spec.kernel)
    return PhasePacking(shape, (_shift(spec, 0), _shift(spec, 1)), order)

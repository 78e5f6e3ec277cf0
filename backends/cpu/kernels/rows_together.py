"""First layers for dot products: the channels of neighbouring pixels side by side, a row of the kernel after the other.

Three channels in pairs would be four, a quarter of the products for nothing. But a row of the kernel, all channels of its pixels
one behind the other, is a window on a row of the input in the same order, and fills all pairs but the last. So the convolution is
one of two channels whose kernel and step are as many pairs wide as the row has. Padding becomes zeros in the copy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphopt.backends.base.dot_product import DotProduct
from graphopt.backends.base.element_type import computed_type
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.panel_packing import PanelPacking
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.operand import GROUPED, View
from graphopt.ir.graph import Array

_PAIR = 2


def row_form(spec: Conv2dSpec, together: int) -> Conv2dSpec:
    """The convolution of rows that a problem is computed as; the problem itself where that saves nothing, or can't be.

    Steps have to be whole pairs, as a pair is read at once.

    Args:
        spec: the problem.
        together: channels that the dot product multiplies at once; 1 without one.
    """
    channels, (height, width) = spec.in_channels, spec.kernel
    if (
        together != _PAIR
        or channels % _PAIR == 0
        or spec.in_block != 1
        or spec.groups != 1
        or spec.static_plane is None
    ):
        return spec
    if spec.dilations[1] != 1 or spec.strides[1] * channels % _PAIR:
        return spec
    pairs, stride = -(-width * channels // _PAIR), spec.strides[1] * channels // _PAIR
    if pairs >= width * -(-channels // _PAIR):
        return spec
    rows, columns = spec.static_plane
    return replace(
        spec, in_channels=_PAIR, kernel=(height, pairs), strides=(spec.strides[0], stride), pads=(0, 0, 0, 0),
        in_height=(rows - 1) * spec.strides[0] + (height - 1) * spec.dilations[0] + 1,
        in_width=(columns - 1) * stride + pairs,
        dilations=(spec.dilations[0], 1),
    )  # fmt: skip


@dataclass(frozen=True)
class RowPacking(Packing):
    """OIHW weights as those of the convolution of rows, packed.

    Attributes:
        panels: the order of these.
    """

    panels: PanelPacking

    def packed(self, array: Array) -> Array:
        """Rows first, then panels."""
        outputs, channels, height, width = self.shape
        pairs = self.panels.shape[-1]
        rows = np.zeros((outputs, height, pairs * _PAIR), array.dtype)
        rows[:, :, : width * channels] = array.transpose(0, 2, 3, 1).reshape(outputs, height, -1)
        return self.panels.packed(rows.reshape(outputs, height, pairs, _PAIR).transpose(0, 3, 1, 2))


def rows_together(data: View, spec: Conv2dSpec, form: Conv2dSpec, dot: DotProduct, parallel: bool) -> View:
    """Emits a copy of (N, C, H, W) as (N, 1, rows, pairs), what the convolution of rows reads.

    Args:
        data: elements of the dot product's type, or converted to it.
        spec: the problem.
        form: its `row_form`.
        dot: the instruction.
        parallel: whether threads share the work.
    """
    source = data if data.type.dtype is not dot.dtype else View(data.buffer, computed_type(data.type.storage))
    channels, height, width = spec.in_channels, int(spec.in_height), int(spec.in_width)
    top, left = spec.pads[:2]
    length = int(form.in_width) * _PAIR
    begin = min(left * channels, length)
    whole = min(width, (length - begin) // channels)
    ragged = min(length - begin - whole * channels, channels) if whole < width else 0
    end = begin + whole * channels + ragged
    copy = T.alloc_buffer((spec.batch, form.in_height, length), source.type.compute)

    def zeros(image: tirx.Expr, y: tirx.Expr, first: int, last: int) -> None:
        with T.serial(0, last - first) as i:
            T.buffer_store(copy, tirx.const(0, source.type.compute), [image, y, first + i])

    def pixel(image: tirx.Expr, y: tirx.Expr, x: tirx.Expr | int, present: int) -> None:
        for channel in range(present):
            T.buffer_store(copy, source[image, channel, y - top, x], [image, y, begin + x * channels + channel])

    with (T.parallel if parallel else T.serial)(0, spec.batch * form.in_height) as row:
        image, y = tirx.floordiv(row, form.in_height), tirx.floormod(row, form.in_height)
        inside = tirx.And(y >= top, y < top + height)
        with T.If(inside):
            with T.Then():
                zeros(image, y, 0, begin)
                with T.serial(0, whole) as x:
                    pixel(image, y, x, channels)
                if ragged:
                    pixel(image, y, whole, ragged)
                zeros(image, y, end, length)
            with T.Else():
                zeros(image, y, 0, length)
    shape = (spec.batch, 1, form.in_height, form.in_width)
    return View(T.decl_buffer(shape, GROUPED.storage, data=copy.data), GROUPED)

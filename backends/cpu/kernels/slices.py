"""How kernels for images convolve over three axes (`specs.slices`): operands indexed as images, weights ordered as theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.backends.base.packing import Packing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.slices import Image, Place, Slices
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn
from graphopt.ir.graph import Array


class IndexedView(View):
    """A view that is indexed otherwise than its buffer.

    Args:
        view: of the buffer.
        place: an index to that of the buffer.
    """

    def __init__(self, view: View, place: Callable[[Sequence[Any]], list[Any]]) -> None:
        super().__init__(view.buffer, view.type)
        self._place = place

    def __getitem__(self, index: Any) -> tirx.Expr:
        return super().__getitem__(tuple(self._place(index)))

    def load(self, index: Sequence[Any]) -> tirx.Expr:
        """As of any view."""
        return super().load(self._place(index))

    def store(self, value: tirx.Expr, index: Sequence[Any]) -> None:
        """As of any view."""
        super().store(value, self._place(index))

    def address(self, index: Sequence[Any]) -> tirx.Expr:
        """As of any view."""
        return super().address(self._place(index))


def data_as_images(data: View, spec: Conv2dSpec) -> View:
    """The data of a convolution as images."""
    slices = spec.slices
    return data if slices is None else IndexedView(data, lambda index: slices.data_index(index, spec.in_block))


def result_as_images(result: View, spec: Conv2dSpec) -> View:
    """The result of a convolution as images."""
    return result if spec.slices is None else IndexedView(result, spec.slices.result_index)


def epilogue_of_images(epilogue: EpilogueFn, spec: Conv2dSpec) -> EpilogueFn:
    """An epilogue that is asked about ``(image, channel, h, w)``."""
    slices = spec.slices
    if slices is None:
        return epilogue
    return lambda value, index, operands: epilogue(value, tuple(slices.result_index(index)), operands)


def placed(spec: Conv2dSpec, image: tirx.Expr) -> Image:
    """Emits which slice of the data an image is, where run time tells how many there are: a division, which is not to be
    repeated for each element."""
    slices = spec.slices
    if slices is None or isinstance(slices.count, int):
        return image
    batch = bind(tirx.floordiv(image, slices.count))
    return Place(batch, bind(image - batch * slices.count))


def each_channel_block(spec: Conv2dSpec, image: Image, blocks: int) -> Iterator[tirx.Expr]:
    """Emits a loop over the groups of an image's channels that hold data: write its body in a ``for`` over this.

    Args:
        spec: the convolution.
        image: the image.
        blocks: groups of channels, whole ones of each slice.
    """
    if spec.slices is None:
        with T.serial(0, blocks) as block:
            yield block
        return
    low, count = (bind(bound) for bound in spec.slices.reached(image))
    each = blocks // spec.slices.window.kernel
    with T.serial(0, count) as step, T.serial(0, each) as within:
        yield (low + step) * each + within


def each_slice(slices: Slices, image: Image) -> Iterator[tirx.Expr | int]:
    """Emits a loop over the kernel's slices that hold data for an image: write its body in a ``for`` over this."""
    low, count = (bind(bound) for bound in slices.reached(image))
    with T.serial(0, count) as step:
        yield bind(low + step)


def channels_of_slice(spec: Conv2dSpec, image: Image, block: tirx.Expr, tap: tirx.Expr | int) -> list[Any]:
    """Where a block of channels of the data lies, in the slice that an image's window has at ``tap``: no division says so."""
    if spec.slices is None:
        return [image, block]
    batch, at = spec.slices.split(image)
    return [batch, block, spec.slices.input_slice(at, tap)]


@dataclass(frozen=True)
class SlicedPacking(Packing):
    """OIDHW weights as those of images, whose channels are those of one slice after the other.

    Attributes:
        order: in which those are packed.
    """

    order: Packing

    def packed(self, array: Array) -> Array:
        """Turned, then packed."""
        return self.order(np.ascontiguousarray(array.swapaxes(1, 2)).reshape(self.order.shape))


def packing_of_slices(spec: Conv2dSpec, order: Packing) -> Packing:
    """How the weights of a convolution are packed, given how those of its images are."""
    if spec.slices is None:
        return order
    return SlicedPacking((spec.out_channels, spec.slices.channels, spec.slices.window.kernel, *spec.kernel), order)

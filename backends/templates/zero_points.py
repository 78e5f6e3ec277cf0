"""Zero points that are left in data which is multiplied as it is stored, and what is added to sums for them.

``sum((x - z) * w) = sum(x * w) - z * sum(w)``. The last term is the same for all sums of an output channel whose windows lie on the
data. Padding isn't part of any sum, so near a border it has the sum of those weights that meet data: there are as many different
ones along an axis as rows or columns of a window can lie outside, which makes a small table.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.formula import Formula
from graphopt.backends.base.template import Computed
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.window import Window
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Value


@dataclass(frozen=True)
class Offset:
    """What is added to sums.

    Attributes:
        operand: all of it.
        place: from the index of a result to that of its element.
    """

    operand: Computed
    place: Callable[[Sequence[Expr]], tuple[Expr, ...]]


def offset_along(
    weight: Value, zero_point: Value | None, turned: int, axis: int, out_axis: int, less: int = 0
) -> Offset:  # fmt: skip
    """For sums of all products with a position along an axis of the weight.

    Args:
        weight: bytes.
        zero_point: that was left in; None for 0.
        turned: what is added to it.
        axis: of the weight, along which sums differ.
        out_axis: the same of the result.
        less: zero point of the weight, without which it is multiplied.
    """
    channels = weight.shape[axis]
    assert isinstance(channels, int)
    formula = ChannelOffset(channels, turned, less, axis)
    return Offset(_computed(weight, zero_point, formula), lambda index: (index[out_axis],))


def offset_of_windows(
    weight: Value, zero_point: Value | None, turned: int, spec: Conv2dSpec, less: int = 0
) -> Offset:  # fmt: skip
    """For a convolution with padding, of known size.

    Args:
        weight: OIHW bytes.
        zero_point, turned, less: as of `offset_along`.
        spec: the convolution.
    """
    assert spec.static_plane is not None
    rows, columns = (Border.of(spec.window(axis), spec.static_plane[axis]) for axis in range(2))
    formula = WindowOffset(spec.out_channels, turned, less, rows, columns)
    return Offset(
        _computed(weight, zero_point, formula), lambda index: (rows.place(index[2]), columns.place(index[3]), index[1])
    )


def _computed(weight: Value, zero_point: Value | None, formula: Formula) -> Computed:
    return Computed((weight,) if zero_point is None else (weight, zero_point), formula)


@dataclass(frozen=True)
class _OfWeight(Formula):
    """Minus the zero point times sums over a weight, which is followed by the zero point unless that is 0.

    Attributes:
        channels: output channels.
        turned: what is added to the zero point.
        less: zero point of the weight.
    """

    channels: int
    turned: int
    less: int

    @property
    def dtype(self) -> DType:
        """That of sums."""
        return DType.i32

    @abstractmethod
    def sums(self, weight: Array) -> Array:
        """The sums."""

    def __call__(self, *arrays: Array) -> Array:
        """The offsets."""
        weight, *others = arrays
        zero_point = self.turned + sum(int(array.reshape(-1)[0]) for array in others)
        return np.ascontiguousarray(
            (-zero_point * self.sums(weight.astype(np.int16) - np.int16(self.less))).astype(np.int32)
        )


@dataclass(frozen=True)
class ChannelOffset(_OfWeight):
    """A number a channel.

    Attributes:
        axis: of the weight, along which sums differ.
    """

    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """A number a channel."""
        return (self.channels,)

    def sums(self, weight: Array) -> Array:
        """Over all other axes."""
        total: Array = weight.sum(tuple(i for i in range(weight.ndim) if i != self.axis), dtype=np.int64)
        return total


@dataclass(frozen=True)
class WindowOffset(_OfWeight):
    """A number for every different window, and channel.

    Attributes:
        rows: which elements of a window's columns are inside of the data.
        columns: the same of its rows.
    """

    rows: Border
    columns: Border

    @property
    def shape(self) -> tuple[int, ...]:
        """Different rows, columns, channels."""
        return len(self.rows.taps), len(self.columns.taps), self.channels

    def sums(self, weight: Array) -> Array:
        """Over the elements that are inside."""
        by_tap = weight.sum(1, dtype=np.int64)
        total: Array = np.einsum("ak,bl,okl->abo", np.array(self.rows.taps), np.array(self.columns.taps), by_tap)
        return total


@dataclass(frozen=True)
class Border:
    """How many different sums there are along an axis: those before, one for all windows on the data, those behind.

    Attributes:
        before: results whose windows begin before the data.
        behind: the first result whose window ends behind it.
        taps: for each sum, 1 for the elements of the kernel that are in it.
    """

    before: int
    behind: int
    taps: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(window: Window, outputs: int) -> Border:
        """Of the ``outputs`` results of a window; where none lies on the data, each has a sum of its own."""
        spans = window.taps(0, outputs)
        before, behind = max(first for first, _ in spans), min(last for _, last in spans)
        if before >= behind:
            before, behind = outputs - 1, outputs
        places = [*range(before), before, *range(behind, outputs)]
        return Border(
            before, behind, tuple(tuple(int(first <= place < last) for first, last in spans) for place in places)
        )

    def place(self, output: Expr) -> Expr:
        """The number of the sum of a result."""
        if len(self.taps) == 1:
            return 0
        return tirx.min(output, self.before) + tirx.max(output - (self.behind - 1), 0)

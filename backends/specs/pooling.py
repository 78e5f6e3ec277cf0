"""Pooling over windows and over whole channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.types import SINGLE, KernelTypes


@dataclass(frozen=True)
class PoolSpec:
    """One pooling.

    Attributes:
        window: geometry, as of a depthwise convolution.
        average: mean instead of maximum.
        counted: for a mean, padding (top, left, bottom, right) that counts as elements of value 0.
    """

    window: Conv2dSpec
    average: bool
    counted: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def start(self) -> float:
        """The value of an empty window before it is finished."""
        least = {"int8": -128, "uint8": 0}.get(self.window.types.sum, -math.inf)
        return 0.0 if self.average else least

    def count(self, h: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
        """Elements that the mean at output pixel ``(h, w)`` divides by."""
        spec = self.window
        extents = (spec.in_height, spec.in_width)
        total: tirx.Expr = tirx.const(1, "int32")
        for axis, at in enumerate((h, w)):
            first = at * spec.strides[axis] - spec.pads[axis]
            step = spec.dilations[axis]
            before = tirx.floordiv(tirx.max(-self.counted[axis] - first, 0) + (step - 1), step)
            end = extents[axis] + self.counted[axis + 2]
            after = tirx.min(tirx.floordiv(end - first + (step - 1), step), spec.kernel[axis])
            total = total * tirx.max(after - before, 1)
        return total

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr, inside: bool) -> tirx.Expr:
        """The result at output pixel ``(h, w)``; ``inside`` says that its window lies on the data for certain."""
        if not self.average:
            return total
        spec = self.window
        # of slices, all are counted
        slices = 1 if spec.slices is None else spec.slices.window.kernel
        if inside or self.counted == spec.pads:
            return total * tirx.const(1.0 / (slices * spec.kernel[0] * spec.kernel[1]), spec.types.sum)
        return total / (self.count(h, w) * slices).astype(spec.types.sum)


@dataclass(frozen=True)
class GlobalPoolSpec:
    """One global pooling.

    Attributes:
        batch: images; an int or a symbolic ``tirx.Var``.
        channels: channels, a multiple of the block.
        height: rows; an int or a symbolic ``tirx.Var``.
        width: columns; an int or a symbolic ``tirx.Var``.
        block: channels innermost in data and result, a multiple of 4.
        average: mean instead of maximum.
        types: element types of data, sums and result.
        depth: images of a stack, for data of one axis more; None for images.
    """

    batch: tirx.Expr | int
    channels: int
    height: tirx.Expr | int
    width: tirx.Expr | int
    block: int
    average: bool
    types: KernelTypes = SINGLE
    depth: tirx.Expr | int | None = None

    @property
    def extents(self) -> tuple[tirx.Expr | int, ...]:
        """Behind the channels."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    @property
    def pixels(self) -> tirx.Expr | int:
        """Elements a channel."""
        return math.prod(self.extents)

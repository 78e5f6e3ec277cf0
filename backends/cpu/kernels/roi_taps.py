"""The pixels that a region's bins read along one axis, and with what weights.

A bin's samples form a grid, and a bilinear sample is a sum over two pixels along each axis: a bin is the sum over all pairs of a
pixel along one axis and a pixel along the other, weighted with the product of two weights that each belong to one axis. Samples
that fall between the same pixels add up to one weight. So does their maximum, but for the sign of the pixel: of products with
weights that aren't negative, the largest is one with the largest weight or, where the pixel is negative, with the smallest.
"""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import ON_STACK, bind
from graphopt.backends.tensors.tensor import Expr

_STACK_ENTRIES = 1024
"""Most pixels of which the list may lie on the stack."""


class AxisTaps:
    """The lists of one axis, in memory that `fill` fills for one region after the other.

    Args:
        bins: bins along the axis.
        extent: pixels along it; an int or symbolic.
        samples: samples of a bin, 0 where the region decides.
        maximum: whether bins are maxima.
        dtype: of positions and weights.
    """

    def __init__(self, bins: int, extent: Expr, samples: int, maximum: bool, dtype: str) -> None:
        self.bins, self.extent, self.samples, self.maximum, self.dtype = bins, extent, samples, maximum, dtype
        # bins share their first and last pixels with their neighbours at most, where the region decides
        self.capacity = 2 * samples * bins if samples else extent + 3 * bins
        self._first = T.alloc_buffer((bins + 1,), "int32", scope="local", annotations=ON_STACK)
        self._outside = T.alloc_buffer((bins,), "int32", scope="local", annotations=ON_STACK)
        self.pixel = self._list("int32")
        self.most = self._list(dtype)
        self.least = self._list(dtype) if maximum else self.most
        self._used = T.alloc_buffer((1,), "int32", scope="local", annotations=ON_STACK)

    def _list(self, dtype: str) -> Any:
        if isinstance(self.capacity, int) and self.capacity <= _STACK_ENTRIES:
            return T.alloc_buffer((self.capacity,), dtype, scope="local", annotations=ON_STACK)
        return T.alloc_buffer((self.capacity,), dtype)

    def first(self, bin_: Expr) -> Expr:
        """Where the list of a bin begins; it ends where the next one's begins."""
        return self._first[bin_]

    def outside(self, bin_: Expr) -> Expr:
        """Whether some sample of the bin lies outside of the image, where everything is 0; kept for maxima only."""
        return self._outside[bin_] > 0

    def fill(self, start: Expr, size: Expr) -> Expr:
        """Emits the lists of a region from ``start``, ``size`` pixels long, and returns the samples along a bin."""
        length = bind(size / self._number(self.bins))
        counted = tirx.max(tirx.Cast("int64", tirx.ceil(length)), T.int64(0))
        count = T.int64(self.samples) if self.samples else bind(counted)
        limit = tirx.Cast(
            self.dtype, tirx.Cast("int64", self.extent) if not isinstance(self.extent, int) else T.int64(self.extent)
        )
        steps = self._number(self.samples) if self.samples else tirx.Cast(self.dtype, count)
        T.buffer_store(self._used, T.int32(0), [0])
        with T.serial(0, self.bins) as b:
            begin = bind(self._used[0])
            T.buffer_store(self._first, begin, [b])
            T.buffer_store(self._outside, T.int32(0), [b])
            with T.serial(0, count) as i:
                middle = tirx.Cast(self.dtype, i) + tirx.const(0.5, self.dtype)
                at = bind(start + tirx.Cast(self.dtype, b) * length + middle * length / steps)
                with T.If(tirx.Or(at < tirx.const(-1.0, self.dtype), at > limit)):
                    with T.Then():
                        if self.maximum:
                            T.buffer_store(self._outside, T.int32(1), [b])
                    with T.Else():
                        self._sample(begin, at, limit)
        T.buffer_store(self._first, self._used[0], [self.bins])
        return count

    def _sample(self, begin: Expr, at: Expr, limit: Expr) -> None:
        """Emits the two pixels of a sample."""
        last = tirx.Cast("int32", self.extent) - 1 if not isinstance(self.extent, int) else T.int32(self.extent - 1)
        inner = bind(tirx.min(tirx.max(at, self._number(0)), limit - self._number(1)))
        # a position that is no number becomes some pixel
        low = bind(tirx.max(tirx.min(tirx.Cast("int32", tirx.floor(inner)), last), T.int32(0)))
        part = bind(inner - tirx.Cast(self.dtype, low))
        self._add(begin, low, self._number(1) - part)
        self._add(begin, tirx.min(low + 1, last), part)

    def _add(self, begin: Expr, pixel: Expr, weight: Expr) -> None:
        """Emits a pixel's weight, joined with that of the pixel before if it is the same one of the same bin."""
        pixel, weight = bind(pixel), bind(weight)
        used = bind(self._used[0])
        before = tirx.max(used - 1, 0)
        with T.If(tirx.And(used > begin, tirx.EQ(self.pixel[before], pixel))):
            with T.Then():
                if self.maximum:
                    T.buffer_store(self.most, tirx.max(self.most[before], weight), [before])
                    T.buffer_store(self.least, tirx.min(self.least[before], weight), [before])
                else:
                    T.buffer_store(self.most, self.most[before] + weight, [before])
            with T.Else():
                place = bind(tirx.min(used, self.capacity - 1))
                T.buffer_store(self.pixel, pixel, [place])
                T.buffer_store(self.most, weight, [place])
                if self.maximum:
                    T.buffer_store(self.least, weight, [place])
                T.buffer_store(self._used, place + 1, [0])

    def _number(self, value: float) -> Expr:
        return tirx.const(float(value), self.dtype)

"""A histogram of a stream of numbers that doesn't depend on how the stream was cut."""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Array

BINS = 4096
"""At most so many bins, whatever comes in: 32 KiB a value, and 16 bins for each of 256 steps."""
_AT_ONCE = 1 << 18
"""Numbers that are looked at together: the copies that sorting them into bins takes are no larger than this."""
_LEAST_EXPONENT = -149
"""That of the smallest float32."""


class Histogram:
    """Counts of the numbers that are not zero in bins ``[i * width, (i + 1) * width)``, where ``width`` is a power of two.

    The width is the least that has all numbers and zero in ``BINS`` bins. It depends on the least and the greatest number alone,
    and when it doubles, each new bin is the sum of exactly two old ones; so the counts are those of all data at once, bit for
    bit, in whatever portions and order it came. Zero is counted apart: every scale stores it exactly, and after a Relu it would
    outweigh everything else.

    Attributes:
        counts: of the bins from ``first`` on.
        first: index of the first bin.
        exponent: the width is two to the power of it.
        zeros: how many numbers were zero.
    """

    def __init__(self) -> None:
        self.counts: Array = np.zeros(1, np.int64)
        self.first = 0
        self.exponent = _LEAST_EXPONENT
        self.zeros = 0

    def add(self, array: Array) -> None:
        """Take in the numbers of an array, which have to be finite."""
        numbers = array.ravel()
        for start in range(0, numbers.size, _AT_ONCE):
            self._add(numbers[start : start + _AT_ONCE].astype(np.float64))

    def _add(self, numbers: Array) -> None:
        inside = numbers[numbers != 0.0]
        self.zeros += numbers.size - inside.size
        if not inside.size:
            return
        self._widen(float(inside.min()), float(inside.max()))
        index = np.floor(np.ldexp(inside, -self.exponent)).astype(np.int64) - self.first
        self.counts += np.bincount(index, minlength=len(self.counts))

    def _widen(self, low: float, high: float) -> None:
        """Make bins for numbers from ``low`` to ``high`` too, wider ones if need be."""
        exponent, first, last = self.exponent, 0, 0
        while True:
            doubled = exponent - self.exponent
            first = min(_bin(low, exponent), self.first >> doubled)
            last = max(_bin(high, exponent), (self.first + len(self.counts) - 1) >> doubled)
            if last - first < BINS:
                break
            exponent += 1
        if (exponent, first, last - first + 1) == (self.exponent, self.first, len(self.counts)):
            return
        counts = np.zeros(last - first + 1, np.int64)
        old = (np.arange(self.first, self.first + len(self.counts)) >> doubled) - first
        np.add.at(counts, old, self.counts)
        self.counts, self.first, self.exponent = counts, first, exponent

    @property
    def width(self) -> float:
        """Of a bin."""
        return float(np.ldexp(1.0, self.exponent))

    @property
    def edges(self) -> Array:
        """Lower edges of the bins, and the upper edge of the last one."""
        return np.ldexp(np.arange(self.first, self.first + len(self.counts) + 1).astype(np.float64), self.exponent)

    @property
    def total(self) -> int:
        """How many numbers came in."""
        return self.zeros + int(self.counts.sum())


def _bin(number: float, exponent: int) -> int:
    return int(np.floor(np.ldexp(number, -exponent)))

"""What is kept of the values that a tensor takes, batch by batch: enough for every way to choose a range, and bounded."""

from __future__ import annotations

import math

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.graph import Array
from graphopt.passes.quant.histogram import Histogram

_UNIT = 149
"""Every float32 is a whole number of two to the minus this, so that sums of them can be exact."""


class ValueStatistics:
    """Least and greatest number, the same a sample, and a histogram. Batches of any lengths give the same as all data at once.

    Attributes:
        low, high: of all numbers.
        samples: how many samples were told apart.
        histogram: None where it isn't wanted.
    """

    def __init__(self, histogram: bool = False) -> None:
        self.low, self.high = math.inf, -math.inf
        self.samples = 0
        self._lows = self._highs = 0  # sums in units of 2**-_UNIT
        self.histogram = Histogram() if histogram else None

    def add(self, name: str, array: Array, batched: bool = False) -> None:
        """Take in one more array.

        Args:
            name: of the value, for messages.
            batched: the first axis tells samples apart; else the array is one.

        Raises:
            InputError: there is NaN or infinity among the numbers.
        """
        if not array.size:
            return
        wide = array.astype(np.float32, copy=False)
        rows = wide.reshape(len(wide), -1) if batched and wide.ndim else wide.reshape(1, -1)
        lows, highs = rows.min(axis=1), rows.max(axis=1)  # NaN is handed on by both
        low, high = float(lows.min()), float(highs.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            what = "NaN" if math.isnan(low) or math.isnan(high) else "infinite"
            raise InputError(
                f"%{name} is {what} on calibration data, so no range can be chosen for it", code="not-finite",
                hint="leave out the inputs that do it, or the nodes that compute it (--exclude)",
            )  # fmt: skip
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.samples += len(rows)
        self._lows += sum(map(_exact, lows.tolist()))
        self._highs += sum(map(_exact, highs.tolist()))
        if self.histogram is not None:
            self.histogram.add(wide)

    @property
    def mean_low(self) -> float:
        """The mean of the samples' least numbers."""
        return _inexact(self._lows, self.samples)

    @property
    def mean_high(self) -> float:
        """The mean of the samples' greatest numbers."""
        return _inexact(self._highs, self.samples)


def _exact(number: float) -> int:
    return int(math.ldexp(number, _UNIT))


def _inexact(total: int, count: int) -> float:
    return total / (count << _UNIT) if count else 0.0

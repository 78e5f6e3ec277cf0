"""Ranges of the least mean squared error: what clipping costs at the ends against what wide steps cost everywhere."""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Array
from graphopt.passes.quant.histogram import Histogram

_PARTS = np.arange(64, 3, -1) / 64
"""Parts of a bound that are tried, the whole first: of equal ones the widest is taken."""


def least_error_range(histogram: Histogram, low: float, high: float, levels: int) -> tuple[float, float]:
    """The range of the least squared error, found on both bounds together and then on each alone.

    Args:
        low, high: the least and the greatest number, zero among them.
        levels: steps of the integer form.
    """
    kept = histogram.counts > 0
    counts = histogram.counts[kept].astype(np.float64)
    if not counts.size:
        return low, high
    centres = np.clip((histogram.edges[:-1] + histogram.edges[1:])[kept] / 2, low, high)

    def best(candidates: list[tuple[float, float]]) -> tuple[float, float]:
        losses = [_loss(centres, counts, *bounds, levels) for bounds in candidates]
        return candidates[int(np.argmin(losses))]

    low, high = best([(low * part, high * part) for part in _PARTS])
    low, high = best([(low, high * part) for part in _PARTS])
    return best([(low * part, high) for part in _PARTS])


def _loss(centres: Array, counts: Array, low: float, high: float, levels: int) -> float:
    step = (high - low) / (levels - 1)
    if step <= 0:
        return float((counts * centres**2).sum())
    stored = np.clip(np.rint(centres / step), np.rint(low / step), np.rint(high / step)) * step
    return float((counts * (centres - stored) ** 2).sum())

"""Ranges by entropy: the clipped, quantized distribution that tells most of the original one.

After S. Migacz, "8-bit inference with TensorRT" (GPU Technology Conference 2017), with two changes. Zeros are left out,
because every scale stores them exactly; and ranges may be one-sided, so that all steps go to the side where numbers are.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Array
from graphopt.passes.quant.histogram import Histogram

_CANDIDATES = 128
"""Thresholds that are tried."""
_NOTHING = 1e-9
"""Probability of what a quantized distribution has nothing of."""


def entropy_range(histogram: Histogram, low: float, high: float, levels: int) -> tuple[float, float]:
    """The range [-t, t], cut to where numbers are, of the least Kullback-Leibler divergence.

    Args:
        low, high: the least and the greatest number, zero among them.
        levels: steps of the integer form.
    """
    counts, edges = histogram.counts.astype(np.float64), histogram.edges
    if not counts.any():
        return low, high
    below, above = -histogram.first, len(counts) + histogram.first  # bins on either side of zero
    longest = max(below, above)
    shortest = min(longest, max(1, levels // 2))
    best, found = np.inf, (low, high)
    for reach in np.unique(np.linspace(shortest, longest, _CANDIDATES).astype(int))[::-1]:
        first, last = max(below - reach, 0), min(below + reach, len(counts))
        loss = _divergence(counts, first, last, levels)
        if loss < best:
            best, found = loss, (max(low, float(edges[first])), min(high, float(edges[last])))
    return found


def _divergence(counts: Array, first: int, last: int, levels: int) -> float:
    """Of what is left of a distribution between two bins once it has so many levels, from the clipped one."""
    inside = counts[first:last]
    if not inside.any():
        return float(np.inf)
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    starts = np.unique((np.arange(min(levels, len(inside))) * len(inside)) // min(levels, len(inside)))
    filled = (inside > 0).astype(np.float64)
    sums, sizes = np.add.reduceat(inside, starts), np.add.reduceat(filled, starts)
    level = np.searchsorted(starts, np.arange(len(inside)), side="right") - 1
    told = np.where(filled > 0, (sums / np.maximum(sizes, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), np.maximum(told / told.sum(), _NOTHING)
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())

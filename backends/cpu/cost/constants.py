"""What the cost models of kernels assume of a core: only ratios between templates matter, so nominal values do."""

from __future__ import annotations

from graphopt.backends.base.caps import Caps

CLOCK = 2.5e9
"""Hertz."""
FMA_FLOPS_PER_LANE = 4.0
"""A cycle: two multiply-adds."""
L2_BYTES_PER_CYCLE = 32.0
"""What a core loads from its second-level cache while it computes (Skylake to Sapphire Rapids, Zen: 32 to 64)."""
LAST_LEVEL_BYTES_PER_CYCLE = 10.0
"""What a core loads from the last level (28 GB/s measured on Sapphire Rapids)."""
MEMORY_BYTES_PER_CYCLE = 4.2
"""What a core loads from memory (11.5 GB/s measured on each of two cores)."""
_FORK_CYCLES = 8000.0


def fork_cycles(caps: Caps) -> float:
    """Cycles to start the other threads on a parallel loop and to wait for the last one: about 3 us."""
    return _FORK_CYCLES if caps.cores > 1 else 0.0


def stream_cycles(total_bytes: float, caps: Caps) -> float:
    """Cycles for one core to read ``total_bytes`` of weights once.

    A model's other kernels run in between, and its weights together outgrow every cache: only what is small counts as cached.
    """
    if total_bytes < caps.l2_bytes / 8:
        return total_bytes / L2_BYTES_PER_CYCLE
    return total_bytes / MEMORY_BYTES_PER_CYCLE

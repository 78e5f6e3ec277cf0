"""The cost model of CPUs, besides what templates say of their own kernels."""

from __future__ import annotations

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.cost import CostModel
from graphopt.backends.cpu.cost.constants import (
    CLOCK,
    FMA_FLOPS_PER_LANE,
    L2_BYTES_PER_CYCLE,
    LAST_LEVEL_BYTES_PER_CYCLE,
    MEMORY_BYTES_PER_CYCLE,
    fork_cycles,
)
from graphopt.backends.cpu.layout_copy import copy_seconds
from graphopt.backends.specs.types import SINGLE
from graphopt.ir.graph import Value

LEAST_BLOCK = 8
"""Channels are stored in blocks of 16, or of 8 where that does not divide them; others are not blocked at all."""


class CpuCosts(CostModel):
    """Cycles of cores at a nominal clock."""

    def moved_seconds(self, weights: int, activations: int, caps: Caps, all_weights: int) -> float:
        """Weights come from memory, or from the last cache where all those of the model fit in half of it."""
        rate = L2_BYTES_PER_CYCLE if activations < caps.l2_bytes * caps.cores / 2 else LAST_LEVEL_BYTES_PER_CYCLE
        source = LAST_LEVEL_BYTES_PER_CYCLE if all_weights < caps.l3_bytes / 2 else MEMORY_BYTES_PER_CYCLE
        return (weights / source + activations / rate) / (max(caps.cores, 1) * CLOCK)

    def arithmetic_seconds(self, flops: int, caps: Caps) -> float:
        """Half the rate of multiply-adds."""
        return flops / (FMA_FLOPS_PER_LANE / 2 * SINGLE.lanes(caps) * CLOCK * max(caps.cores, 1))

    def start_seconds(self, caps: Caps) -> float:
        """Waking the other threads and waiting for the last."""
        return fork_cycles(caps) / CLOCK

    def copy_seconds(self, value: Value, caps: Caps) -> float:
        """As the template for copies predicts it."""
        return copy_seconds(value, caps)

    def channel_multiple(self, caps: Caps) -> int:
        """A vector of float32, at least a block of channels."""
        return max(SINGLE.lanes(caps), LEAST_BLOCK)

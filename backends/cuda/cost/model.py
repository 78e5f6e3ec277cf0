"""The cost model of CUDA devices: bytes and operations, as no template has one of its own yet."""

from __future__ import annotations

import math

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.cost import CostModel
from graphopt.ir.graph import Value

BYTES_PER_SECOND = 15e9
"""Memory bandwidth of one multiprocessor's share (A100: 18e9, T4: 8e9)."""
FLOPS_PER_SECOND = 180e9
"""Of one multiprocessor: 128 multiply-adds a cycle at the clock of a busy one, none of them in tensor cores."""
LAUNCH_SECONDS = 3e-6
TENSOR_CORE_CHANNELS = 8
"""What tensor cores want channels to be a multiple of, for float16; 4 would do for TF32."""
_NOMINAL = 56
"""Elements along a dimension that is symbolic."""


class CudaCosts(CostModel):
    """Shares of multiprocessors."""

    def moved_seconds(self, weights: int, activations: int, caps: Caps, all_weights: int) -> float:
        """Everything comes from memory; a launch at least."""
        return (weights + activations) / (BYTES_PER_SECOND * caps.cores) + LAUNCH_SECONDS

    def arithmetic_seconds(self, flops: int, caps: Caps) -> float:
        """No tensor cores."""
        return flops / (FLOPS_PER_SECOND * max(caps.cores, 1))

    def start_seconds(self, caps: Caps) -> float:
        """None: `moved_seconds` holds the launch."""
        return 0.0

    def copy_seconds(self, value: Value, caps: Caps) -> float:
        """Every element is read and written."""
        elements = math.prod(d if isinstance(d, int) else _NOMINAL for d in value.shape)
        return self.moved_seconds(0, 2 * elements * -(-value.dtype.bits // 8), caps, 0)

    def channel_multiple(self, caps: Caps) -> int:
        """What a tensor core takes."""
        return TENSOR_CORE_CHANNELS

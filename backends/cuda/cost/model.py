"""The cost model of GPUs for what no template predicts: bytes over the memory's bandwidth, operations over that of the lanes."""

from __future__ import annotations

import math

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.cost import CostModel
from graphopt.backends.cuda.cost.chips import chip_of
from graphopt.backends.cuda.cost.gemm import LAUNCH_SECONDS
from graphopt.ir.graph import Value

TENSOR_CORE_CHANNELS = 8
"""What tensor cores want channels to be a multiple of, for float16; 4 would do for TF32."""
_NOMINAL = 56
"""Elements along a dimension that is symbolic."""


def streaming_seconds(moved: int, caps: Caps) -> float:
    """Of a launch that moves so many bytes from and to memory and does nothing that takes longer."""
    return moved / chip_of(caps).memory + LAUNCH_SECONDS


class CudaCosts(CostModel):
    """What the part that stands for a compute capability does (`chips.py`)."""

    def moved_seconds(self, weights: int, activations: int, caps: Caps, all_weights: int) -> float:
        """Everything comes from memory; a launch at least."""
        return streaming_seconds(weights + activations, caps)

    def arithmetic_seconds(self, flops: int, caps: Caps) -> float:
        """No tensor cores."""
        chip = chip_of(caps)
        return flops / (2 * chip.fmas * chip.multiprocessors * chip.clock)

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

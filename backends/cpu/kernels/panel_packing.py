"""Weights of dense convolutions in panels of output channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.packing import Packing
from graphopt.backends.templates.packed_array import aligned_copy, interleaved
from graphopt.ir.graph import Array


@dataclass(frozen=True)
class PanelPacking(Packing):
    """OIHW weights as (panels, I / group, height, width, group, panel width), filled up with zero channels.

    Attributes:
        width: output channels of a panel.
        group: input channels of the innermost loop.
        together: how many of them lie side by side in 32 bits (`interleaved`).
    """

    width: int
    group: int
    together: int = 1

    def packed(self, array: Array) -> Array:
        """One copy of the panels, one to turn them."""
        channels, inputs, *window = self.shape
        panels = -(-channels // self.width)
        groups = -(-inputs // self.group)
        padded = np.zeros((panels * self.width, groups * self.group, *window), array.dtype)
        padded[:channels, :inputs] = array
        cut = padded.reshape(panels, self.width, groups, self.group, *window)
        turned = cut.transpose(0, 2, 4, 5, 3, 1)
        return aligned_copy(turned) if self.together == 1 else interleaved(turned, self.together)

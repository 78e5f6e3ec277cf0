"""What a cost model says of a kind of target: seconds, for whoever has to choose. Nothing is built or run for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.ir.graph import Value


class CostModel(ABC):
    """Seconds at the nominal clock of a kind of target; only ratios between them mean much.

    Templates predict their own kernels (`KernelTemplate.cost`); this is the rest.

    Attributes:
        call_seconds: what the virtual machine takes for a kernel call besides the kernel: 1.3 to 2.5 us measured on two models.
    """

    call_seconds: ClassVar[float] = 1.5e-6

    @abstractmethod
    def moved_seconds(self, weights: int, activations: int, caps: Caps, all_weights: int) -> float:
        """Time to read so many bytes of weights, and to read or write so many of values in caches.

        Args:
            all_weights: bytes of the model's weights together, which decide where they are kept between runs.
        """

    @abstractmethod
    def arithmetic_seconds(self, flops: int, caps: Caps) -> float:
        """Time of so many operations of the generic schedule, which multiplies and adds in one instruction at best."""

    @abstractmethod
    def start_seconds(self, caps: Caps) -> float:
        """Time to start a kernel on all cores, where the time of what it moves doesn't hold it already."""

    @abstractmethod
    def copy_seconds(self, value: Value, caps: Caps) -> float:
        """Time to store a value in another layout."""

    @abstractmethod
    def channel_multiple(self, caps: Caps) -> int:
        """What the number of channels of a layer should be a multiple of, lest part of the hardware idles."""

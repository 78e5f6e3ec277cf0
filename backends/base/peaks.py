"""Kernels that measure what hardware can do at most, as those who time them see them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.backends.base.target import Target


@dataclass(frozen=True)
class Work:
    """Something to time: one call of ``run`` does ``amount`` operations, or moves that many bytes."""

    run: Callable[[], None]
    amount: int


@dataclass(frozen=True)
class StreamCase:
    """A stream over ``size`` bytes together (rounded down to whole steps), ``passes`` times a call."""

    kind: str
    size: int
    passes: int = 1


class PeakKernels(ABC):
    """Makes them for a target; raises DeviceError where the target's code doesn't run on this machine."""

    @abstractmethod
    def fma_work(self, target: Target, threads: Sequence[int]) -> list[Work]:
        """Multiply-adds in registers on each number of threads."""

    @abstractmethod
    def stream_work(self, target: Target, cases: Sequence[StreamCase]) -> list[Work]:
        """Streams on the target's cores, cases of one size on the same memory, which lives as long as they do."""

"""What this machine can do at most, measured with small kernels of our own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from graphopt.errors import UserError

if TYPE_CHECKING:
    from graphopt.backends.base.target import Target

_TRIES = 5
_LEAST_S = 0.05
"""Each measurement takes the best of at least this long and so many tries: a peak is what nothing disturbed."""
_MEMORY_FACTOR = 4
"""Memory is measured on so many times the last cache ..."""
_MEMORY_BYTES = (256 << 20, 1 << 30)
"""... within these limits."""
_CACHE_PASS_BYTES = 64 << 20
"""Streams in a cache repeat until they moved about this much, so that starting the threads doesn't count."""


@dataclass(frozen=True)
class Bandwidth:
    """GB/s (1e9) of one level of the memory hierarchy, all threads together.

    Attributes:
        level: ``memory``, ``L3``, ``L2`` or ``L1``.
        read, write, copy, triad: of streams that write none, all, half and a third of their bytes.
    """

    level: str
    read: float
    write: float
    copy: float
    triad: float

    def at(self, write_share: float) -> float:
        """GB/s of a stream of which that share is written: seconds a byte, linear between the measured mixes."""
        points = [(0.0, self.read), (1 / 3, self.triad), (0.5, self.copy), (1.0, self.write)]
        for (low, slow), (high, fast) in pairwise(points):
            if write_share <= high:
                part = (write_share - low) / (high - low)
                return 1 / ((1 - part) / slow + part / fast)
        return self.write


@dataclass(frozen=True)
class MachinePeaks:
    """Peaks of ``threads`` cores.

    Attributes:
        core_gflops: float32 multiply-adds (two operations each) of one core alone, in vectors as wide as the target's.
        gflops: of all threads.
        levels: from memory upwards to the first-level cache.
    """

    threads: int
    core_gflops: float
    gflops: float
    levels: tuple[Bandwidth, ...]

    @property
    def memory(self) -> Bandwidth:
        """Bandwidth out of cache."""
        return self.levels[0]


@lru_cache(maxsize=4)
def machine_peaks(target: Target) -> MachinePeaks:
    """Peaks for the threads and the vectors of a target; measured once a process, in two or three seconds.

    Raises:
        UserError: not a CPU.
        DeviceError: the target's code doesn't run on this machine.
    """
    from graphopt.backends.base.peaks import StreamCase
    from graphopt.backends.targets.grammar import parse_target
    from graphopt.backends.targets.platforms import platform_of

    kernels = platform_of(target).peak_kernels()
    if kernels is None:
        raise UserError("peaks are measured on CPUs only, not on a GPU", code="cpu-only")
    cores = target.caps.cores
    core, everything = (_rate(w.run, w.amount) for w in kernels.fma_work(target, [1, cores]))
    caps = parse_target("native", cores).caps  # the caches that are here, not those that the code was planned for
    low, high = _MEMORY_BYTES
    sizes = {"memory": min(max(_MEMORY_FACTOR * caps.l3_bytes, low), high, _half_of_free_memory())}
    together = caps.l2_bytes * cores
    if caps.l3_bytes > 4 * together:
        sizes["L3"] = min(max(caps.l3_bytes // 8, 2 * together), 64 << 20)
    sizes["L2"] = together // 2
    sizes["L1"] = caps.l1_bytes * cores // 2
    kinds = ("write", "read", "copy", "triad")  # writing first: it brings the pages in
    levels = []
    for level, size in sizes.items():
        passes = 1 if level == "memory" else max(_CACHE_PASS_BYTES // size, 1)
        work = kernels.stream_work(target, [StreamCase(kind, size, passes) for kind in kinds])
        levels.append(Bandwidth(level, **{kind: _rate(w.run, w.amount) for kind, w in zip(kinds, work)}))
    return MachinePeaks(cores, core, everything, tuple(levels))


def _rate(run: Callable[[], None], amount: int) -> float:
    """1e9 units a second, best of several tries."""
    run()
    best, spent, tries = float("inf"), 0.0, 0
    while tries < _TRIES or spent < _LEAST_S:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        best, spent, tries = min(best, seconds), spent + seconds, tries + 1
    return amount / best / 1e9


def _half_of_free_memory() -> int:
    try:
        return max(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, 64 << 20)
    except (ValueError, OSError):  # no POSIX
        return _MEMORY_BYTES[0]

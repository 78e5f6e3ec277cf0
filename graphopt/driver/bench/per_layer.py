"""Time of every kernel while the model runs as it is: on the data, and in the cache state, that it has there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.targets.platforms import platform_of
from graphopt.driver.bench.machine_peak import MachinePeaks
from graphopt.errors import UserError
from graphopt.runtime.kernel_facts import KernelFacts, kernel_facts
from graphopt.runtime.observe import observed

if TYPE_CHECKING:
    from graphopt.ir.graph import Array
    from graphopt.runtime.model import CompiledModel

BUDGET_S = 10.0
"""No round starts later than this (at least two are run)."""


@dataclass(frozen=True)
class LayerTime(KernelFacts):
    """One kernel call that was timed.

    Attributes:
        ms: median over the runs.
    """

    ms: float = 0.0

    @property
    def gflops(self) -> float | None:
        """1e9 operations a second; None without operations."""
        return self.flops / self.ms / 1e6 if self.flops else None

    @property
    def gbytes(self) -> float | None:
        """1e9 bytes a second."""
        return self.bytes / self.ms / 1e6 if self.bytes else None

    @property
    def intensity(self) -> float | None:
        """Operations a byte."""
        return self.flops / self.bytes if self.flops and self.bytes else None

    def limit(self, peaks: MachinePeaks) -> tuple[str, float] | None:
        """The bound that the kernel is nearest to, and which part of it (0 to about 1) it reaches.

        Compute, or the bandwidth of the slowest level (memory, then caches) that it does not exceed, for its mix of reads and
        writes. None when neither operations nor bytes are known.
        """
        found: list[tuple[str, float]] = []
        if self.gflops is not None:
            found.append(("compute", self.gflops / peaks.gflops))
        if self.gbytes is not None and self.bytes:
            share = (self.written or 0) / self.bytes
            parts = [(level.level, self.gbytes / level.at(share)) for level in peaks.levels]
            found.append(next((part for part in parts if part[1] <= 1.0), parts[-1]))
        return max(found, key=lambda item: item[1], default=None)


@dataclass(frozen=True)
class PerLayer:
    """Kernel times of one model.

    Attributes:
        layers: in the order they run.
        total_ms: median of whole runs that nobody observed, inputs and outputs included.
        runs: how many observed runs the medians are of.
    """

    layers: list[LayerTime] = field(default_factory=list)
    total_ms: float = 0.0
    runs: int = 0

    @property
    def kernels_ms(self) -> float:
        """Sum over the kernels; what is missing to ``total_ms`` is copies in and out and dispatch."""
        return sum(layer.ms for layer in self.layers)


def measure_layers(
    model: CompiledModel, feed: Mapping[str, Array], repeat: int = 30, budget_s: float = BUDGET_S
) -> PerLayer:
    """Time the kernels of a model on inputs.

    Kernels are told apart by the order in which they run, so the same inputs must take the same branches.

    Args:
        model: compiled here, or loaded.
        feed: inputs by name.
        repeat: rounds at most, each a plain run and an observed one.
        budget_s: see `BUDGET_S`.

    Raises:
        UserError: code of a device whose kernels run behind the caller's back.
    """
    if model.target is not None and not platform_of(model.target).is_synchronous:
        raise UserError(
            "kernels are timed one by one on CPUs only", code="cpu-only", hint="use NVIDIA's Nsight Systems for a GPU"
        )
    from graphopt.backends.build.call_clock import CallClock
    from graphopt.backends.targets.grammar import parse_target

    model.run(feed)
    calls: list[tuple[str, bool]] = []

    def see(function: Any, symbol: str, before: bool, *_: Any) -> int:
        calls.append((symbol, before))
        return 0

    with observed(model, see):
        model.run(feed)
    clock = CallClock(len(calls), parse_target("native", 1))
    plain: list[float] = []
    times: list[npt.NDArray[np.int64]] = []
    start = time.perf_counter()
    while len(times) < 2 or (len(times) < repeat and time.perf_counter() - start < budget_s):
        before = time.perf_counter_ns()
        model.run(feed)
        plain.append((time.perf_counter_ns() - before) / 1e6)
        clock.clear()
        with observed(model, clock.function):
            model.run(feed)
        times.append(np.diff(clock.nanoseconds()))
    spent = np.median(times, 0)
    facts = kernel_facts(model)
    known = {fact.function for fact in facts}
    found = [(name, float(spent[i]) / 1e6) for name, i in _kernels(calls) if name in known or not known]
    return PerLayer(_named(facts, found), statistics.median(plain), len(times))


def _kernels(calls: Sequence[tuple[str, bool]]) -> list[tuple[str, int]]:
    """Names of kernels, with the place of the event before each.

    The virtual machine's own functions and those that it computes sizes with are not kernels, nor is a call that contains
    others (a branch).
    """
    return [
        (symbol, i)
        for i, ((symbol, before), (_, still_before)) in enumerate(pairwise(calls))
        if before and not still_before and not symbol.startswith(("vm.", "shape_func"))
    ]


def _named(facts: Sequence[KernelFacts], kernels: Sequence[tuple[str, float]]) -> list[LayerTime]:
    """What ran, with what is known of it: the n-th call of a function is its n-th in the program."""
    waiting: dict[str, list[KernelFacts]] = {}
    for fact in facts:
        waiting.setdefault(fact.function, []).append(fact)
    found = []
    for name, ms in kernels:
        queue = waiting.get(name) or [KernelFacts(name, name)]
        fact = queue.pop(0) if len(queue) > 1 else queue[0]
        found.append(LayerTime(**asdict(fact), ms=ms))
    return found

"""Time of every kernel while the model runs as it is: on the data, and in the cache state, that it has there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.driver.bench.machine_peak import MachinePeaks
from graphopt.errors import UserError
from graphopt.runtime.observe import observed

if TYPE_CHECKING:
    from graphopt.backends.base.program import KernelStep, Program
    from graphopt.ir.graph import Array
    from graphopt.runtime.model import CompiledModel

BUDGET_S = 10.0
"""No run starts later than this, plain and observed ones together (each kind runs at least twice)."""


@dataclass(frozen=True)
class LayerTime:
    """One kernel call.

    Attributes:
        function: name of the compiled function.
        label: the node that it is named after, and how many more it computes.
        ms: median over the runs.
        flops: operations, None when unknown (symbolic sizes).
        bytes: operands and results once each, None when unknown.
        written: how many of these are results.
        shapes: physical shapes of the first operand and the results, as in ``1x3x48x48 -> 1x1x24x24x16``.
    """

    function: str
    label: str
    template: str
    config: str
    ms: float
    flops: int | None = None
    bytes: int | None = None
    written: int | None = None
    shapes: str = ""

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
        repeat: runs at most.
        budget_s: see `BUDGET_S`.

    Raises:
        UserError: code of a GPU, whose kernels run behind the caller's back.
    """
    if model.target is not None and model.target.caps.is_gpu:
        raise UserError(
            "kernels are timed one by one on CPUs only", code="cpu-only", hint="use NVIDIA's Nsight Systems for a GPU"
        )
    model.run(feed)
    plain: list[float] = []
    start = time.perf_counter()
    while len(plain) < 2 or (len(plain) < repeat and time.perf_counter() - start < budget_s / 2):
        before = time.perf_counter_ns()
        model.run(feed)
        plain.append((time.perf_counter_ns() - before) / 1e6)
    observer = _Observer()
    kernels: list[tuple[str, list[float]]] = []
    runs = 0
    with observed(model, observer):
        model.run(feed)
        while runs < 2 or (runs < repeat and time.perf_counter() - start < budget_s):
            observer.clear()
            model.run(feed)
            calls = observer.calls()
            if not kernels:
                kernels = [(name, []) for name, _ in calls]
            if [name for name, _ in calls] != [name for name, _ in kernels]:
                continue
            for (_, times), (_, nanoseconds) in zip(kernels, calls):
                times.append(nanoseconds / 1e6)
            runs += 1
    return PerLayer(_named(model, kernels), statistics.median(plain), runs)


class _Observer:
    """Time stamps around the calls of the virtual machine."""

    def __init__(self) -> None:
        self._events: list[tuple[str, bool, int]] = []

    def __call__(self, function: Any, symbol: str, before: bool, result: Any, *arguments: Any) -> int:
        self._events.append((symbol, before, time.perf_counter_ns()))
        return 0

    def clear(self) -> None:
        self._events.clear()

    def calls(self) -> list[tuple[str, int]]:
        """Kernels of the last run in order with their nanoseconds; what observing itself takes is subtracted.

        A call that contains others (a branch) is no kernel.
        """
        found: list[tuple[str, int]] = []
        idle: list[int] = []
        for (symbol, before, start), (_, still_before, stop) in zip(self._events, self._events[1:]):
            if not before or still_before:
                continue
            if symbol.startswith("vm."):
                idle.append(stop - start)
            else:
                found.append((symbol, stop - start))
        overhead = min(idle, default=0)
        return [(symbol, max(spent - overhead, 1)) for symbol, spent in found]


def _named(model: CompiledModel, kernels: list[tuple[str, list[float]]]) -> list[LayerTime]:
    steps = [] if model.program is None else _steps(model.program)
    waiting: dict[str, list[KernelStep]] = {}
    for step in steps:
        waiting.setdefault(step.function, []).append(step)
    found = []
    for name, times in kernels:
        ms = statistics.median(times)
        queue = waiting.get(name, [])
        if not queue:
            found.append(LayerTime(name, name, "", "", ms))
            continue
        step = queue.pop(0) if len(queue) > 1 else queue[0]
        written = [b.static_bytes for b in step.outputs]
        results = None if None in written else sum(size for size in written if size is not None)
        moved = step.bytes
        if moved is None and all(b.static_bytes is not None for b in (*step.inputs, *step.outputs)):
            moved = sum(b.static_bytes or 0 for b in (*step.inputs, *step.outputs))
        found.append(
            LayerTime(name, step.label, step.template, step.config, ms, step.flops, moved, results, _shapes(step))
        )
    return found


def _shapes(step: KernelStep) -> str:
    sides = (step.inputs[:1], step.outputs)
    return " -> ".join(", ".join("x".join(map(str, b.shape)) for b in side) for side in sides)


def _steps(program: Program) -> list[KernelStep]:
    from graphopt.backends.base.program import BranchStep, KernelStep

    found: list[KernelStep] = []
    for step in program.steps:
        if isinstance(step, KernelStep):
            found.append(step)
        elif isinstance(step, BranchStep):
            found += _steps(step.then.program) + _steps(step.otherwise.program)
    return found

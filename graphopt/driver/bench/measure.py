"""Latency of contenders within this process, in alternation. Other runtimes go into processes of their own: `compete`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.driver.bench.agreement import Agreement
from graphopt.errors import UserError
from graphopt.ir.graph import Array

BUDGET_S = 20.0
"""Rounds stop after this long (each contender has then run at least once more after warming up)."""
SETTLE_S = 0.05
"""Pause between contenders: thread pools spin some milliseconds before they sleep."""
WARM_S = 0.01
"""How long a contender runs untimed after the pause, at least once."""

Run = Callable[[], Mapping[str, Array]]
OpenAxes = Mapping[str, Sequence[int]]
"""Axes of inputs by name whose extents a runtime must not take for fixed."""


@dataclass(frozen=True)
class Latency:
    """Wall time of one contender.

    Attributes:
        compile_s: seconds from model to first possible run, None when it was loaded compiled.
        ratio: its median over ours: above 1 we are faster.
        error: largest difference of its outputs from ours over the largest magnitude; None when not compared.
        problem: why its outputs can't be taken for the same, or None.
        loading_bytes, running_bytes: memory at most while it was loaded, and run, beyond what its libraries and inputs take;
            None when it had no process of its own.
    """

    name: str
    median_ms: float
    min_ms: float
    p90_ms: float
    runs: int
    compile_s: float | None
    ratio: float
    error: float | None = None
    problem: str | None = None
    loading_bytes: int | None = None
    running_bytes: int | None = None


@dataclass(frozen=True)
class Contender:
    """Something to time: its name, one run, how long it took to prepare."""

    name: str
    run: Run
    compile_s: float | None = None


def measure(contenders: Sequence[Contender], repeat: int = 20, budget_s: float = BUDGET_S) -> list[Latency]:
    """Time contenders that share a thread pool, or have none, in alternation: drift of the machine hits all of them alike.

    Args:
        contenders: ours first; ratios are relative to it.
        repeat: rounds at most; each times every contender once, after a pause and a run to wake its threads.
        budget_s: no round starts later than this.

    Raises:
        UserError: ``repeat`` is not positive.
    """
    require_rounds(repeat)
    for contender in contenders:
        contender.run()
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    start = time.perf_counter()
    for _ in range(repeat):
        for contender in contenders:
            # threads of the one before spin for a while; on as many cores as threads they would be measured with this one
            time.sleep(SETTLE_S)
            woken = time.perf_counter() + WARM_S
            contender.run()
            while time.perf_counter() < woken:
                contender.run()
            before = time.perf_counter()
            contender.run()
            times[contender.name].append(1e3 * (time.perf_counter() - before))
        if time.perf_counter() - start > budget_s:
            break
    ours = statistics.median(times[contenders[0].name])
    return [latency(c.name, times[c.name], ours, c.compile_s) for c in contenders]


def require_rounds(repeat: int) -> None:
    """Refuse a number of rounds.

    Raises:
        UserError: it is not positive.
    """
    if repeat < 1:
        raise UserError(f"--repeat must be at least 1, not {repeat}", code="bad-option")


def latency(
    name: str,
    times: Sequence[float],
    ours: float,
    compile_s: float | None,
    agrees: Agreement | None = None,
    *,
    loading_bytes: int | None = None,
    running_bytes: int | None = None,
) -> Latency:
    """What milliseconds of runs say, against our median."""
    ordered = sorted(times)
    median = statistics.median(ordered)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return Latency(
        name, median, ordered[0], p90, len(ordered), compile_s, median / ours,
        agrees.error if agrees else None, agrees.problem if agrees else None, loading_bytes, running_bytes,
    )  # fmt: skip

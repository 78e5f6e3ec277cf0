"""Contenders in processes of their own that take turns, so that drift of the machine hits all alike and nobody disturbs others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

from graphopt.backends.base.scratch import scratch_folder
from graphopt.driver.bench.agreement import Agreement, agreement
from graphopt.driver.bench.child import Child, Entrant
from graphopt.driver.bench.measure import BUDGET_S, Latency, latency, require_rounds
from graphopt.errors import CompileError
from graphopt.ir.graph import Array

WARM_S = 0.01
"""How long a contender runs untimed at the beginning of its turn, at least once."""
TIMED_S = 0.01
"""How long it runs then, at least once: nets of microseconds run often."""

Working = Callable[[str], AbstractContextManager[object]]
"""Shows a person what is going on."""


@dataclass(frozen=True)
class Standings:
    """What came out.

    Attributes:
        latencies: of those who took part, ours first.
        absent: those who could not, with the reason.
        outputs: results by contender.
    """

    latencies: list[Latency]
    absent: list[tuple[str, str]] = field(default_factory=list)
    outputs: dict[str, dict[str, Array]] = field(default_factory=dict)


def compete(
    entrants: Sequence[Entrant],
    repeat: int,
    *,
    expected: Mapping[str, Array] | None = None,
    tolerance: Mapping[str, Any] | None = None,
    budget_s: float = BUDGET_S,
    working: Working = nullcontext,
) -> Standings:
    """Load every contender, compare its results, and time them in alternation.

    Args:
        entrants: ours first; ratios are relative to it. Peers whose process can't load the model, or ends, are left out.
        repeat: rounds at most; every contender has a turn in each.
        expected: outputs that peers should have; ours by default.
        tolerance: how far they may be off, as `graphopt.driver.bench.agreement.tolerance_of` says.
        budget_s: no round starts later.
        working: shows what is going on.

    Raises:
        UserError: ``repeat`` is not positive.
        CompileError: our own process failed.
    """
    require_rounds(repeat)
    with ExitStack() as stack:
        children: list[Child] = []
        absent: list[tuple[str, str]] = []
        agreements: dict[str, Agreement] = {}
        for entrant in entrants:
            try:
                with working(f"preparing {entrant.name}"):
                    child = stack.enter_context(Child(entrant, stack.enter_context(scratch_folder())))
            except CompileError as error:
                if entrant is entrants[0]:
                    raise
                absent.append((entrant.name, error.message))
                continue
            children.append(child)
            if child is not children[0]:
                wanted = children[0].outputs if expected is None else expected
                agreements[entrant.name] = agreement(child.outputs, wanted, **(tolerance or {}))
        with working("measuring"):
            times = _rounds(children, absent, repeat, budget_s)
        ours = statistics.median(times[children[0].entrant.name])
        found = [
            latency(
                child.entrant.name, times[child.entrant.name], ours, child.ready_s, agreements.get(child.entrant.name),
                loading_bytes=child.loading_bytes, running_bytes=child.running_bytes,
            )
            for child in children
        ]  # fmt: skip
        return Standings(found, absent, {child.entrant.name: child.outputs for child in children})


def _rounds(
    children: list[Child], absent: list[tuple[str, str]], repeat: int, budget_s: float
) -> dict[str, list[float]]:
    """Milliseconds of the runs of each; who fails on the way goes from one list to the other."""
    times: dict[str, list[float]] = {child.entrant.name: [] for child in children}
    start = time.perf_counter()
    for _ in range(repeat):
        for child in list(children):
            try:
                times[child.entrant.name] += [1e3 * s for s in child.turn(WARM_S, TIMED_S)]
            except CompileError as error:
                if child is children[0]:
                    raise
                children.remove(child)
                absent.append((child.entrant.name, error.message))
        if time.perf_counter() - start > budget_s:
            break
    return times

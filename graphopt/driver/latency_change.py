"""What pruning does to a model's time: predicted for any target, measured side by side where the target runs here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.backends.base.target import Target
from graphopt.backends.targets.prediction import Predictor
from graphopt.backends.targets.runnable import can_run_here
from graphopt.driver.compiling import to_program
from graphopt.driver.fixed_extents import at_extents
from graphopt.driver.latency_fit import side_by_side
from graphopt.driver.prune_report import Change
from graphopt.errors import GraphOptError
from graphopt.ir.graph import Array, Graph


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of a run, before and after.

    Attributes:
        predicted: by the kernels' cost models; None where the model can't be compiled.
        measured: medians, in alternation; None where not asked for or not possible.
        notes: why something is missing.
    """

    predicted: Change | None = None
    measured: Change | None = None
    notes: tuple[str, ...] = ()


def latencies(
    original: Graph, pruned: Graph, target: Target, feed: Mapping[str, Array], *, measured: bool
) -> Latencies:
    """Latencies of two graphs on a target; what can't be told becomes a note.

    Args:
        feed: inputs to measure with, and to predict for where extents are open.
        measured: compile both, run them and measure.
    """
    try:
        before, after = (
            1e3 * Predictor(target).seconds(to_program(at_extents(g, feed), target.name, threads=target.caps.cores)[2])
            for g in (original, pruned)
        )
    except GraphOptError as error:
        return Latencies(
            notes=(f"no latency is known, the model can't be compiled for {target.name}: {error.message}",)
        )
    predicted = Change(before, after)
    if not measured:
        return Latencies(predicted, None)
    verdict = can_run_here(target)
    if not verdict:
        return Latencies(predicted, None, (f"latency was not measured: {verdict.reason}",))
    seconds = side_by_side(original, target, feed)(pruned)
    return Latencies(predicted, Change(*(1e3 * s for s in seconds)))

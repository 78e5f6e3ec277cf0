"""Compiling graphs at some levels and judging what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import graphopt
from graphopt.errors import GraphOptError, InternalError
from graphopt.runtime.model import CompiledModel
from tests.random_graphs.case import Case, combined_feed, prefix_of, side_by_side
from tests.random_graphs.evaluate import Array, session_of
from tests.random_graphs.judge import judge

LEVELS = (0, 2, 3)
OUTCOMES = ("not drawn", "equal", "rounding", "reference", "refused", "refused input", "wrong", "error", "crash")
"""Of a graph at a level, from best to worst. Not drawn are graphs on which ONNX Runtime itself dies; refused ones end in a
GraphOptError that names the node and a remedy."""
FAILURES = ("wrong", "error", "crash")


@dataclass(frozen=True)
class Outcome:
    """What became of a graph.

    Attributes:
        seed: of the graph.
        level: of optimisation.
        kind: one of ``OUTCOMES``.
        detail: what differs, or the error.
    """

    seed: int
    level: int
    kind: str
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check(cases: Sequence[Case], level: int) -> list[Outcome]:
    """Outcomes of graphs that are compiled as one model, or each by itself where that fails."""
    try:
        model = graphopt.compile(side_by_side(cases), level=level, threads=2, jobs=1)
        feeds = [combined_feed(cases, which) for which in range(max(len(c.feeds) for c in cases))]
        runs = [dict(model.run(feed)) for feed in feeds]
        changed = _changed(model, feeds, runs)
    except GraphOptError as error:
        if len(cases) > 1:
            return [outcome for case in cases for outcome in check([case], level)]
        return [Outcome(cases[0].seed, level, _kind(error), str(error)[:1500])]
    except Exception as error:  # any class: what isn't a GraphOptError is a fault
        if len(cases) > 1:
            return [outcome for case in cases for outcome in check([case], level)]
        return [Outcome(cases[0].seed, level, "error", f"{type(error).__name__}: {error}"[:1500])]
    outcomes = []
    for index, case in enumerate(cases):
        prefix = prefix_of(index) if len(cases) > 1 else ""
        other = sorted(changed & {prefix + n for n in case.outputs})
        if other:
            outcomes.append(Outcome(case.seed, level, "wrong", f"other results beside runs on other extents: {other}"))
            continue
        outcomes.append(_judged(case, level, [{n: run[prefix + n] for n in case.outputs} for run in runs]))
    return outcomes


def _changed(model: CompiledModel, feeds: Sequence[dict[str, Array]], runs: Sequence[Mapping[str, Array]]) -> set[str]:
    """Results that differ where runs on other extents come before and at the same time."""

    def differing(first: int) -> set[str]:
        found: set[str] = set()
        for turn in range(first, first + 2 * len(feeds)):
            which = turn % len(feeds)
            again = model.run(feeds[which])
            found |= {n for n, array in again.items() if array.tobytes() != runs[which][n].tobytes()}
        return found

    with ThreadPoolExecutor(len(feeds)) as threads:
        return set().union(*threads.map(differing, range(len(feeds))))


def check_passes(cases: Sequence[Case], level: int) -> list[Outcome]:
    """Outcomes of graphs that are only optimised: ONNX Runtime runs what comes out. A hundred times as fast as compiling."""
    return [_check_passes(case, level) for case in cases]


def _check_passes(case: Case, level: int) -> Outcome:
    try:
        optimised = graphopt.export_onnx(graphopt.optimize(graphopt.import_onnx(case.model()), level=level))
        session = session_of(optimised)
        taken = {item.name for item in session.get_inputs()}
        runs = []
        for feed in case.feeds:
            found = session.run(list(case.outputs), {k: v for k, v in feed.items() if k in taken})
            runs.append({name: np.asarray(array) for name, array in zip(case.outputs, found)})
    except GraphOptError as error:
        return Outcome(case.seed, level, _kind(error), str(error)[:1500])
    except Exception as error:  # any class, ONNX Runtime's too: it runs the graph as it was
        return Outcome(case.seed, level, "error", f"{type(error).__name__}: {error}"[:1500])
    return _judged(case, level, runs)


def _judged(case: Case, level: int, runs: Sequence[dict[str, Array]]) -> Outcome:
    worst, detail = "equal", ""
    for which in range(len(case.feeds)):
        for verdict in judge(case, which, runs[which]):
            if OUTCOMES.index(verdict.kind) > OUTCOMES.index(worst):
                worst, detail = verdict.kind, f"feed {which}, {verdict.name}: {verdict.detail}"
    return Outcome(case.seed, level, worst, detail)


def _kind(error: GraphOptError) -> str:
    if isinstance(error, graphopt.UnsupportedOpError):
        return "refused"
    if isinstance(error, graphopt.InputError):
        return "refused input"
    return "error" if isinstance(error, (InternalError, graphopt.CompileError)) else "refused"


WAYS: dict[str, Callable[[Sequence[Case], int], list[Outcome]]] = {"compile": check, "passes": check_passes}
"""How graphs can be checked."""

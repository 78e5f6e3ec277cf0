"""Instruments watch a pipeline: verification, timing, dumps. (The numeric comparison is in ``compare``.)"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from graphopt.ir.graph import Graph
from graphopt.ir.printer import format_graph
from graphopt.ir.verifier import verify
from graphopt.rewrite.passes import Pass


class Instrument:
    """Called around every pass; does nothing by itself."""

    def before(self, p: Pass, phase: str, graph: Graph) -> None:
        """Called before the pass runs."""

    def after(self, p: Pass, phase: str, graph: Graph, changed: bool) -> None:
        """Called after the pass ran without raising, in reverse order of the instruments."""


class VerifyEach(Instrument):
    """Checks the graph's invariants after every pass that changed it."""

    def after(self, p: Pass, phase: str, graph: Graph, changed: bool) -> None:
        """Verify."""
        if changed:
            verify(graph)


@dataclass(frozen=True)
class Timing:
    """One run of a pass: seconds, whether it changed the graph, nodes (subgraphs' included) before and after."""

    phase: str
    pass_name: str
    seconds: float
    changed: bool
    nodes_before: int
    nodes_after: int


class TimePasses(Instrument):
    """Collects a ``Timing`` for every run of a pass."""

    def __init__(self) -> None:
        self.timings: list[Timing] = []
        self._start = 0.0
        self._nodes = 0

    def before(self, p: Pass, phase: str, graph: Graph) -> None:
        """Start the clock."""
        self._nodes = sum(1 for _ in graph.walk())
        self._start = time.perf_counter()

    def after(self, p: Pass, phase: str, graph: Graph, changed: bool) -> None:
        """Stop the clock."""
        seconds = time.perf_counter() - self._start
        after = sum(1 for _ in graph.walk())
        self.timings.append(Timing(phase, p.name, seconds, changed, self._nodes, after))


class Dump(Instrument):
    """Hands the text of the graph to ``sink(title, text)`` after every pass that changed it.

    Args:
        sink: receives e.g. ``("03-fold-constants", "graph main(...")``.
    """

    def __init__(self, sink: Callable[[str, str], None]) -> None:
        self._sink = sink
        self._count = 0

    def after(self, p: Pass, phase: str, graph: Graph, changed: bool) -> None:
        """Dump."""
        if changed:
            self._sink(f"{self._count:02}-{p.name}", format_graph(graph))
            self._count += 1

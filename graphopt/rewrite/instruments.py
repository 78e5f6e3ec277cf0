"""Instruments watch a pipeline."""

from __future__ import annotations

from graphopt.ir.graph import Graph
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

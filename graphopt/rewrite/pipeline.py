"""Pipeline: phases of passes, run on a copy so that a failure leaves the caller's graph as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from graphopt.errors import GraphOptError, InternalError
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from graphopt.rewrite.instruments import Instrument
from graphopt.rewrite.passes import Pass, PassContext


@dataclass(frozen=True)
class Phase:
    """Passes run in order, again and again until a round changes nothing (at most ``rounds`` times).

    Attributes:
        name: for messages and measurements.
        passes: in order.
        rounds: most rounds.
        clean_up: phases that run after every round that changed something.
    """

    name: str
    passes: tuple[Pass, ...]
    rounds: int = 1
    clean_up: tuple[Phase, ...] = ()

    def without(self, names: Sequence[str]) -> Phase:
        """The phase without the passes of the given names."""
        return replace(
            self,
            passes=tuple(p for p in self.passes if p.name not in names),
            clean_up=tuple(phase.without(names) for phase in self.clean_up),
        )

    def all_passes(self) -> Iterator[Pass]:
        """Its passes, and those of its ``clean_up``."""
        yield from self.passes
        for phase in self.clean_up:
            yield from phase.all_passes()

    def run(self, graph: Graph, ctx: PassContext, instruments: Sequence[Instrument]) -> None:
        """Transform the graph in place."""
        for _ in range(max(self.rounds, 1)):
            start = graph.version
            for p in self.passes:
                _run_one(p, self, graph, ctx, instruments)
            if graph.version == start:
                break
            for phase in self.clean_up:
                phase.run(graph, ctx, instruments)


@dataclass(frozen=True)
class Pipeline:
    """Named phases in order."""

    phases: tuple[Phase, ...]

    @staticmethod
    def of(passes: Sequence[Pass], name: str = "custom") -> Pipeline:
        """One phase that runs ``passes`` once."""
        return Pipeline((Phase(name, tuple(passes)),))

    def without(self, names: Sequence[str]) -> Pipeline:
        """The pipeline without the passes of the given names."""
        return Pipeline(tuple(phase.without(names) for phase in self.phases))

    def then(self, phases: Sequence[Phase]) -> Pipeline:
        """The pipeline with more phases at its end."""
        return Pipeline((*self.phases, *phases))

    @property
    def pass_names(self) -> tuple[str, ...]:
        """Names of all passes, each once."""
        return tuple(dict.fromkeys(p.name for phase in self.phases for p in phase.all_passes()))

    def run(self, graph: Graph, ctx: PassContext | None = None, instruments: Sequence[Instrument] = ()) -> Graph:
        """The transformed copy of ``graph``; the graph itself is never touched.

        Raises:
            GraphOptError: a pass failed; the error names it.
        """
        ctx = ctx or PassContext()
        work = clone(graph)
        for phase in self.phases:
            phase.run(work, ctx, instruments)
        return work


def _run_one(p: Pass, phase: Phase, work: Graph, ctx: PassContext, instruments: Sequence[Instrument]) -> None:
    where = f"in pass {p.spec()} of phase {phase.name!r}"
    ctx.pass_name = p.name
    version = work.version
    try:
        for instrument in instruments:
            instrument.before(p, phase.name, work)
        p.run(work, ctx)
        for instrument in reversed(instruments):
            instrument.after(p, phase.name, work, work.version != version)
    except GraphOptError as e:
        e.add_note_line(where)
        raise
    except Exception as e:  # any other exception is a bug of the pass; it must not surface as a bare KeyError
        raise InternalError(
            f"pass {p.name} crashed: {type(e).__name__}: {e}",
            code="pass-crashed",
            notes=(where,),
            hint=f"leave it out with --skip-pass {p.name}, and report this",
        ) from e
    finally:
        ctx.pass_name = ""

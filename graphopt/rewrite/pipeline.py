"""Pipeline: phases of passes, run on a copy so that a failure leaves the caller's graph as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphopt.errors import GraphOptError, InternalError
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from graphopt.rewrite.instruments import Instrument
from graphopt.rewrite.passes import Pass, PassContext


@dataclass(frozen=True)
class Phase:
    """Passes run in order, again and again until a round changes nothing (at most ``rounds`` times)."""

    name: str
    passes: tuple[Pass, ...]
    rounds: int = 1


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
        return Pipeline(
            tuple(replace(p, passes=tuple(x for x in p.passes if x.name not in names)) for p in self.phases)
        )

    @property
    def pass_names(self) -> tuple[str, ...]:
        """Names of all passes, each once."""
        return tuple(dict.fromkeys(x.name for phase in self.phases for x in phase.passes))

    def run(self, graph: Graph, ctx: PassContext | None = None, instruments: Sequence[Instrument] = ()) -> Graph:
        """The transformed copy of ``graph``; the graph itself is never touched.

        Raises:
            GraphOptError: a pass failed; the error names it.
        """
        ctx = ctx or PassContext()
        work = clone(graph)
        for phase in self.phases:
            for _ in range(max(phase.rounds, 1)):
                start = work.version
                for p in phase.passes:
                    _run_one(p, phase, work, ctx, instruments)
                if work.version == start:
                    break
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

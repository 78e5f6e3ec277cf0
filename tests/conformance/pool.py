"""Cases checked in processes that survive them: a case that dies or hangs is a crash, and the next one runs on.

Each case reaches its process in a file: making the suite takes seconds, so only the process that asks does that.
"""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.conformance.cases import Case
from tests.conformance.check import Outcome
from tests.support.servers import Server, serve_all

WORKER = "tests.conformance.worker"


def check(server: Server, case: Case, form: str, timeout: float) -> Outcome:
    """The outcome of one case."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case"
        path.write_bytes(pickle.dumps(case))
        answer = server.ask(f"{path}\t{form}", timeout)
    if answer:
        return Outcome(**json.loads(answer))
    return Outcome(case.name, form, "crash", server.why(answer, timeout))


def run_all(
    todo: Sequence[tuple[Case, str]],
    workers: int = 2,
    timeout: float = 60.0,
    progress: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Outcomes of cases in a form, in their order.

    Args:
        workers: processes.
        timeout: seconds for one case.
        progress: called with every outcome as it comes, from any thread.
    """
    done: dict[tuple[str, str], Outcome] = {}

    def serve(server: Server, item: tuple[Case, str]) -> None:
        outcome = check(server, *item, timeout)
        done[outcome.name, outcome.form] = outcome
        if progress is not None:
            progress(outcome)

    serve_all(todo, WORKER, workers, serve)
    return [done[case.name, form] for case, form in todo]

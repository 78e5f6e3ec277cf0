"""Graphs checked in processes that survive them: where one dies or hangs, its graphs are tried one by one, and that one is a
crash."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from tests.random_graphs.check import Outcome
from tests.support.servers import Server, serve_all

WORKER = "tests.random_graphs.worker"
Request = tuple[tuple[int, ...], int]
"""Seeds that are checked together, and the level."""


def check(server: Server, seeds: Sequence[int], level: int, way: str, timeout: float) -> list[Outcome]:
    """Outcomes of graphs that are checked together, each of which may take ``timeout`` seconds."""
    request = json.dumps({"seeds": list(seeds), "level": level, "way": way})
    answer = server.ask(request, timeout * len(seeds))
    drawn = answer == "drawn"
    if drawn:
        answer = server.next(timeout * len(seeds))
    if answer:
        return [Outcome(**fields) for fields in json.loads(answer)]
    reason = server.why(answer, timeout)
    if len(seeds) > 1:
        return [outcome for seed in seeds for outcome in check(server, [seed], level, way, timeout)]
    return [Outcome(seeds[0], level, "crash" if drawn else "not drawn", reason)]


def run_all(
    requests: Sequence[Request],
    way: str,
    workers: int = 2,
    timeout: float = 60.0,
    progress: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Outcomes of all requests, by level and seed.

    Args:
        way: how graphs are checked, one of ``check.WAYS``.
        workers: processes.
        timeout: seconds for one graph at one level.
        progress: called with every outcome as it comes, from any thread.
    """
    done: list[Outcome] = []

    def serve(server: Server, request: Request) -> None:
        for outcome in check(server, *request, way, timeout):
            done.append(outcome)
            if progress is not None:
                progress(outcome)

    serve_all(requests, WORKER, workers, serve)
    return sorted(done, key=lambda outcome: (outcome.level, outcome.seed))

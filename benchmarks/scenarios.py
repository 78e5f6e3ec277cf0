"""What load does to runtimes, each in processes of its own that take turns: how much slower a run gets, how much callers get done.

A process is timed while those of the other runtimes wait for a request. Every turn under load follows or precedes one of the same
runtime on the idle machine, so that both meet the same mood of the machine.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import loads
from serving import Failed, Model, Server

THREADS = 2
ALONE = [(0, 0)]
"""One caller of the first model with its first feed."""
CALLERS = 8
"""Threads on one model; a model needs as many feeds."""
CHECK_S = 0.5
"""A turn before those that are timed, in which every result is compared."""


@dataclass(frozen=True)
class Runtime:
    """One of the contestants.

    Attributes:
        name: for reports.
        kind: a key of ``runtimes.RUNTIMES``.
        tree: source tree whose graphopt its processes import.
    """

    name: str
    kind: str
    tree: Path


@dataclass(frozen=True)
class Load:
    """A scenario that slows a runtime down.

    Attributes:
        title: for reports.
        around: what goes on beside a process that started without any limit.
        limit: makes what a process calls before it starts.
        threads: that runtimes are asked for; their own choice when None.
        twice: two processes of the runtime run at once.
    """

    title: str
    around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    limit: Callable[[], AbstractContextManager[loads.Enter]] | None = None
    threads: int | None = THREADS
    twice: bool = False


def _pinned() -> AbstractContextManager[None]:
    cores = loads.cores()
    if len(cores) < 2:
        raise loads.Unavailable("there is one core only")
    return loads.busy(cores[1])


LOADS = {
    "idle": Load("idle again"),
    "busy": Load("one busy process", loads.busy),
    "pinned": Load("one busy process bound to core 1", _pinned),
    "two": Load("two processes of the runtime", twice=True),
    "one-core": Load("taskset to one core, 2 threads asked for", limit=loads.one_core),
    "one-core-default": Load("taskset to one core, threads by default", limit=loads.one_core, threads=None),
    "quota": Load("quota of 1.5 cores", limit=lambda: loads.quota(1.5)),
}


@dataclass
class Slowdown:
    """One runtime and model under one load.

    Attributes:
        idle_s: median run of every turn on the idle machine.
        loaded_s: mean run of every turn under load.
        problem: why there are none.
    """

    idle_s: list[float] = field(default_factory=list)
    loaded_s: list[float] = field(default_factory=list)
    problem: str | None = None

    @property
    def ratio(self) -> float | None:
        """Of all turns together."""
        if self.problem is not None or not self.loaded_s:
            return None
        return statistics.mean(self.loaded_s) / statistics.median(self.idle_s)

    @property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest ratio of one round."""
        ratios = [loaded / idle for loaded, idle in zip(self.loaded_s, self.idle_s)]
        return min(ratios), max(ratios)


@contextlib.contextmanager
def idle_servers(runtimes: Sequence[Runtime], models: Sequence[Model]) -> Iterator[dict[str, Server | str]]:
    """A process of each runtime that started without load; or why a runtime has none."""
    with ExitStack() as stack:
        yield {runtime.name: _server(stack, runtime, models, THREADS) for runtime in runtimes}


def slowdowns(
    load: Load, runtimes: Sequence[Runtime], model: Model, idle: Mapping[str, Server | str], rounds: int, seconds: float
) -> dict[str, Slowdown]:
    """Every runtime under a load.

    Args:
        load: the scenario.
        runtimes: contestants.
        model: that ``idle`` has opened.
        idle: a process of each, see ``idle_servers``.
        rounds: turns on the idle machine and as many under load.
        seconds: of each turn.

    Raises:
        loads.Unavailable: this machine can't make the load.
    """
    found = {runtime.name: Slowdown() for runtime in runtimes}
    with ExitStack() as stack:
        enter = stack.enter_context(load.limit()) if load.limit is not None else None
        loaded: dict[str, list[Server]] = {}
        for runtime in runtimes:
            first = idle[runtime.name]
            own = _server(stack, runtime, [model], load.threads, enter) if load.twice or enter is not None else first
            problem = next((s for s in (first, own) if isinstance(s, str)), None)
            if isinstance(first, Server) and isinstance(own, Server):
                loaded[runtime.name] = [first, own] if load.twice else [own]
            found[runtime.name].problem = problem
        able = list(loaded)
        for n in range(rounds):
            for i in range(len(able)):
                name = able[(i + n) % len(able)]
                try:
                    _round(found[name], idle[name], load, loaded[name], seconds, loaded_first=bool(n % 2))
                except Failed as error:
                    found[name].problem = str(error)
                    able.remove(name)
                    break
    return found


def _round(
    found: Slowdown, idle: Server | str, load: Load, loaded: Sequence[Server], seconds: float, loaded_first: bool
) -> None:
    assert isinstance(idle, Server)
    for under_load in (loaded_first, not loaded_first):
        if not under_load:
            found.idle_s += idle.serve(ALONE, seconds).medians
            continue
        with load.around():
            for server in loaded:
                server.begin(ALONE, seconds)
            turns = [server.finish() for server in loaded]
        found.loaded_s.append(statistics.mean(sum(t.seconds) / sum(t.runs) for t in turns))


@dataclass
class Throughput:
    """One runtime with several callers.

    Attributes:
        single: runs a second of one caller that has the machine to itself, for each model, turn by turn.
        rates: runs a second of all callers of each model together, turn by turn.
        problem: why there are none.
    """

    single: list[list[float]] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    problem: str | None = None

    @property
    def of_single(self) -> float:
        """What callers get done, with what one caller does in the same time as the unit: models count by the time they take."""
        return sum(rate / one for rate, one in zip(medians(self.rates), medians(self.single)))


def medians(turns: Sequence[Sequence[float]]) -> list[float]:
    """Of each column."""
    return [statistics.median(column) for column in zip(*turns)]


def throughputs(
    runtimes: Sequence[Runtime],
    models: Sequence[Model],
    callers: Sequence[tuple[int, int]],
    rounds: int,
    seconds: float,
) -> dict[str, Throughput]:
    """Callers that run at once in one process, against one that runs alone there.

    Args:
        runtimes: contestants; the results of those that are graphopt are compared with what each feed gives alone.
        models: that every process opens.
        callers: model and feed of each.
        rounds: turns of each kind.
        seconds: of each turn.

    Raises:
        SystemExit: graphopt gives another result in company than alone.
    """
    found = {runtime.name: Throughput() for runtime in runtimes}
    with ExitStack() as stack:
        servers = {}
        for runtime in runtimes:
            server = _server(stack, runtime, models, THREADS)
            if isinstance(server, str):
                found[runtime.name].problem = server
            else:
                servers[runtime.name] = server
        checked = [runtime.name for runtime in runtimes if runtime.kind == "graphopt"]
        for name in [name for name in checked if name in servers]:
            _require_right(name, models, callers, servers[name].serve(callers, CHECK_S, every=True).wrong)
        able = list(servers)
        for n in range(rounds):
            for i in range(len(able)):
                name = able[(i + n) % len(able)]
                try:
                    single = [servers[name].serve([(m, 0)], seconds).rates[0] for m in range(len(models))]
                    together = servers[name].serve(callers, seconds)
                except Failed as error:
                    found[name].problem = str(error)
                    able.remove(name)
                    break
                if name in checked:
                    _require_right(name, models, callers, together.wrong)
                found[name].single.append(single)
                rates = list(zip(callers, together.rates))
                found[name].rates.append([sum(r for (m, _), r in rates if m == k) for k in range(len(models))])
    return found


def _require_right(name: str, models: Sequence[Model], callers: Sequence[tuple[int, int]], wrong: list[int]) -> None:
    if wrong:
        which = ", ".join(f"{models[callers[i][0]].name} on feed {callers[i][1]}" for i in wrong)
        raise SystemExit(f"{name} gives other results with {len(callers)} callers than with one: {which}")


def thread_costs(
    runtime: Runtime, model: Model, artefacts: Mapping[int, Path], repeat: int
) -> dict[int, tuple[float, float]]:
    """Median seconds of the first and of later runs of an artefact in fresh processes, by its number of threads.

    Raises:
        Failed: it doesn't load or run.
    """
    found: dict[int, list[tuple[float, float]]] = {threads: [] for threads in artefacts}
    for _ in range(repeat):
        for threads, path in artefacts.items():
            with ExitStack() as stack:
                server = _open(stack, runtime, [Model(model.name, path, model.feeds)], threads)
                first, *later = server.first_runs(6)
                found[threads].append((first, statistics.median(later)))
    return {threads: tuple(medians(pairs)) for threads, pairs in found.items()}  # type: ignore[misc]


def save_artefacts(runtime: Runtime, model: Model, folder: Path) -> dict[int, Path]:
    """The model on one thread and on two, compiled by the runtime's tree.

    Raises:
        Failed: it doesn't compile.
    """
    artefacts = {}
    for threads in (1, THREADS):
        with ExitStack() as stack:
            artefacts[threads] = folder / f"{runtime.name}-{model.name}-{threads}.gopt"
            _open(stack, runtime, [model], threads).save(artefacts[threads])
    return artefacts


def threads_left(runtime: Runtime, model: Model, count: int, wait_s: float) -> tuple[int, int]:
    """Threads of a process before and after so many short-lived ones have run the model once each.

    Raises:
        Failed: it doesn't open or run.
    """
    with ExitStack() as stack:
        return _open(stack, runtime, [model], THREADS).short_lived(count, wait_s)


def _open(
    stack: ExitStack, runtime: Runtime, models: Sequence[Model], threads: int | None, enter: loads.Enter | None = None
) -> Server:
    """A process that ends with the stack."""
    server = Server(runtime.kind, runtime.tree, models, threads, enter)
    stack.callback(server.close)
    return server


def _server(
    stack: ExitStack, runtime: Runtime, models: Sequence[Model], threads: int | None, enter: loads.Enter | None = None
) -> Server | str:
    """The same, or why the runtime has none."""
    try:
        return _open(stack, runtime, models, threads, enter)
    except Failed as error:
        return str(error)

"""A process that has models loaded in one runtime and does what it is asked, while others of its kind sit idle.

It blocks on its standard input between requests, which are lines of JSON, as are its answers. What it is asked for and answers
is the methods of ``Server``, which starts and asks it.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from runtimes import RUNTIMES, Array, Feed, Run, Served

LIMIT_S = 900
"""A process that hasn't answered then hangs."""
REST_S = 0.05
"""Pause before a process is timed: thread pools of the one before spin some milliseconds before they sleep."""
TOGETHER = 8
"""Threads that live at once among the short-lived ones."""


@dataclass(frozen=True)
class Model:
    """A model as processes open it.

    Attributes:
        name: for reports.
        path: ONNX file or artefact.
        feeds: file of sets of inputs, made by ``write_feeds``.
    """

    name: str
    path: Path
    feeds: Path


@dataclass(frozen=True)
class Turn:
    """What callers did in one turn.

    Attributes:
        runs: of each caller.
        seconds: that each caller took for them.
        medians: seconds of each caller's median run.
        wrong: callers that got another result than their feed gives alone.
    """

    runs: list[int]
    seconds: list[float]
    medians: list[float]
    wrong: list[int]

    @property
    def rates(self) -> list[float]:
        """Runs a second of each caller."""
        return [n / s for n, s in zip(self.runs, self.seconds)]


class Failed(Exception):
    """A process could not open its models, or ended; says why."""


class Server:
    """Starts a process, waits until it has opened its models, and asks it.

    Args:
        runtime: a key of ``RUNTIMES``.
        tree: source tree whose graphopt it imports.
        models: that it opens.
        threads: for each model; the runtime's own choice when None.
        enter: is called in the process before Python starts.

    Raises:
        Failed: the runtime can't take a model.
    """

    def __init__(
        self,
        runtime: str,
        tree: Path,
        models: Sequence[Model],
        threads: int | None,
        enter: Callable[[], None] | None = None,
    ) -> None:
        setup = {"runtime": runtime, "threads": threads, "models": [[str(m.path), str(m.feeds)] for m in models]}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(setup)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(tree)}, preexec_fn=enter,
        )  # fmt: skip
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def begin(self, callers: Sequence[tuple[int, int]], seconds: float, every: bool = False) -> None:
        """Let callers run, all at once; ``finish`` gives what they did.

        Args:
            callers: model and feed of each, by number.
            seconds: that they run at least.
            every: compare every result with the one that the feed gives alone, not just the last.
        """
        time.sleep(REST_S)
        self._ask(do="serve", callers=list(callers), seconds=seconds, every=every)

    def finish(self) -> Turn:
        """What the callers of ``begin`` did."""
        return Turn(**self._answer())

    def serve(self, callers: Sequence[tuple[int, int]], seconds: float, every: bool = False) -> Turn:
        """Both of them."""
        self.begin(callers, seconds, every)
        return self.finish()

    def first_runs(self, count: int) -> list[float]:
        """Seconds of the first runs of the first model; to be asked for before anything else."""
        self._ask(do="first", count=count)
        return [float(s) for s in self._answer()["seconds"]]

    def short_lived(self, threads: int, wait_s: float) -> tuple[int, int]:
        """Threads of the process before, and some time after, so many Python threads have run the first model once each."""
        self._ask(do="short-lived", threads=threads, wait=wait_s)
        answer = self._answer()
        return answer["before"], answer["after"]

    def save(self, path: Path) -> None:
        """The first model as an artefact; graphopt only."""
        self._ask(do="save", path=str(path))
        self._answer()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _ask(self, **request: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(f"its process ended ({self._process.wait()})") from error

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], LIMIT_S)[0]:
            raise Failed(f"it hangs ({LIMIT_S} s)")
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"its process ended ({self._process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer


def write_feeds(path: Path, feeds: Sequence[Feed]) -> None:
    """Save sets of inputs; names may hold any character."""
    arrays = {f"{i}-{name.encode().hex()}": array for i, feed in enumerate(feeds) for name, array in feed.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read_feeds(path: Path) -> list[Feed]:
    """Sets of inputs that ``write_feeds`` left."""
    feeds: dict[int, Feed] = {}
    with np.load(path) as archive:
        for key in archive.files:
            number, name = key.split("-")
            feeds.setdefault(int(number), {})[bytes.fromhex(name).decode()] = archive[key]
    return [feeds[number] for number in sorted(feeds)]


class _Callers:
    """The process's models and who calls them."""

    def __init__(self, runtime: str, models: Sequence[tuple[str, str]], threads: int | None) -> None:
        self.feeds = [read_feeds(Path(feeds)) for _, feeds in models]
        self.models: list[Served] = [
            RUNTIMES[runtime](Path(path), feeds[0], threads) for (path, _), feeds in zip(models, self.feeds)
        ]
        self._known: dict[tuple[int, int], tuple[Run, dict[str, Array]]] = {}

    def caller(self, model: int, feed: int) -> tuple[Run, dict[str, Array]]:
        """A caller, and what its feed gives while nobody else runs."""
        if (model, feed) not in self._known:
            run = self.models[model].caller(self.feeds[model][feed])
            self._known[model, feed] = run, {name: np.copy(array) for name, array in run().items()}
        return self._known[model, feed]

    def serve(self, callers: Sequence[tuple[int, int]], seconds: float, every: bool) -> dict[str, Any]:
        """All callers at once; one alone needs no thread."""
        known = [self.caller(*caller) for caller in callers]
        start = threading.Barrier(len(known))
        done: dict[int, tuple[list[float], bool]] = {}
        if len(known) == 1:
            done[0] = _timed(*known[0], start, seconds, every)
        else:
            errors: list[BaseException] = []

            def work(number: int) -> None:
                try:
                    done[number] = _timed(*known[number], start, seconds, every)
                except BaseException as error:
                    errors.append(error)
                    start.abort()

            threads = [threading.Thread(target=work, args=(i,)) for i in range(len(known))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if errors:
                raise errors[0]
        times = [done[i][0] for i in range(len(known))]
        return {
            "runs": [len(t) for t in times],
            "seconds": [sum(t) for t in times],
            "medians": [statistics.median(t) for t in times],
            "wrong": [i for i in range(len(known)) if not done[i][1]],
        }

    def first_runs(self, count: int) -> dict[str, Any]:
        """Seconds."""
        run = self.models[0].caller(self.feeds[0][0])
        times = [time.perf_counter()]
        for _ in range(count):
            run()
            times.append(time.perf_counter())
        return {"seconds": [after - before for before, after in itertools.pairwise(times)]}

    def short_lived(self, count: int, wait_s: float) -> dict[str, Any]:
        """Threads as the system counts them."""
        runs = [self.models[0].caller(self.feeds[0][i % len(self.feeds[0])]) for i in range(TOGETHER)]
        before = _system_threads()
        for begin in range(0, count, TOGETHER):
            threads = [threading.Thread(target=run) for run in runs[: count - begin]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        time.sleep(wait_s)
        return {"before": before, "after": _system_threads()}


def _timed(
    run: Run, alone: dict[str, Array], start: threading.Barrier, seconds: float, every: bool
) -> tuple[list[float], bool]:
    """Seconds of each run, and whether the results compared are right; the first run isn't timed."""
    result = run()
    right = True
    times: list[float] = []
    start.wait()
    now = time.perf_counter()
    end = now + seconds
    while now < end:
        result = run()
        times.append((after := time.perf_counter()) - now)
        now = after
        if every:
            right = right and _same(alone, result)
            now = time.perf_counter()
    return times, right and _same(alone, result)


def _same(expected: dict[str, Array], found: Any) -> bool:
    """Bit for bit."""
    return all(array.tobytes() == np.asarray(found[name]).tobytes() for name, array in expected.items())


def _system_threads() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))


def _main() -> None:
    # Libraries write to standard output from C++; answers go to where it led, the rest to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(given: dict[str, Any]) -> None:
        print(json.dumps(given), file=answers, flush=True)

    setup = json.loads(sys.argv[1])
    try:
        callers = _Callers(setup["runtime"], setup["models"], setup["threads"])
        answer({})
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "serve":
                answer(callers.serve([(m, f) for m, f in request["callers"]], request["seconds"], request["every"]))
            elif request["do"] == "first":
                answer(callers.first_runs(request["count"]))
            elif request["do"] == "short-lived":
                answer(callers.short_lived(request["threads"], request["wait"]))
            elif request["do"] == "save":
                callers.models[0].model.save(request["path"])  # type: ignore[attr-defined]
                answer({})
    except Exception as error:  # peers raise any class
        answer({"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})


if __name__ == "__main__":
    _main()

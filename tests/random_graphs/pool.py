"""Processes that survive what they test: where one dies or hangs, its graphs are tried one by one, and that one is a crash."""

from __future__ import annotations

import contextlib
import json
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.random_graphs.check import Outcome

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0
Request = tuple[tuple[int, ...], int]
"""Seeds that are checked together, and the level."""


class _Worker:
    """One process; started again after each death."""

    def __init__(self, way: str, timeout: float) -> None:
        self.way, self.timeout = way, timeout
        self.process: subprocess.Popen[str] | None = None

    def check(self, seeds: Sequence[int], level: int) -> list[Outcome]:
        """Outcomes of graphs that are checked together."""
        process = self._running()
        assert process.stdin is not None
        drawn = False
        try:
            process.stdin.write(json.dumps({"seeds": list(seeds), "level": level, "way": self.way}) + "\n")
            process.stdin.flush()
            line = self._line(process, self.timeout * len(seeds))
            drawn = line == "drawn\n"
            if drawn:
                line = self._line(process, self.timeout * len(seeds))
        except BrokenPipeError:
            line = ""
        if line:
            return [Outcome(**fields) for fields in json.loads(line)]
        reason = f"no result after {self.timeout:g} s"
        if line is not None:
            reason = f"the process died (exit status {process.wait()})"
        self.stop()
        if len(seeds) > 1:
            return [outcome for seed in seeds for outcome in self.check([seed], level)]
        return [Outcome(seeds[0], level, "crash" if drawn else "not drawn", reason)]

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):  # closing writes what a dead process never read
                        stream.close()
            self.process = None

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.random_graphs.worker"], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if self._line(self.process, START_SECONDS) != "ready\n":
                self.stop()
                raise RuntimeError("a worker does not start; run `python -m tests.random_graphs.worker`")
        return self.process

    @staticmethod
    def _line(process: subprocess.Popen[str], timeout: float) -> str | None:
        """The next line, "" when the process ended, None when it stayed silent. One line is one answer: nothing is buffered."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        return process.stdout.readline() if ready else None


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
    waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
    for request in requests:
        waiting.put(request)
    done: list[Outcome] = []
    failures: list[BaseException] = []

    def serve() -> None:
        worker = _Worker(way, timeout)
        try:
            while not failures:
                for outcome in worker.check(*waiting.get_nowait()):
                    done.append(outcome)
                    if progress is not None:
                        progress(outcome)
        except queue.Empty:
            pass
        except BaseException as e:
            failures.append(e)
        finally:
            worker.stop()

    threads = [threading.Thread(target=serve) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sorted(done, key=lambda outcome: (outcome.level, outcome.seed))

"""Worker processes that survive what they test: a case that dies or hangs is a crash, and the next one runs on."""

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

from tests.conformance.check import Outcome

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0


class Worker:
    """One process; started again after each death."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.process: subprocess.Popen[str] | None = None

    def check(self, name: str, form: str) -> Outcome:
        """The outcome of one case."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{name}\t{form}\n")
            process.stdin.flush()
            line = self._line(process, self.timeout)
        except BrokenPipeError:
            line = ""
        if line is None:
            self.stop()
            return Outcome(name, form, "crash", f"no result after {self.timeout:g} s")
        if not line:
            code = process.wait()
            self.stop()
            return Outcome(name, form, "crash", f"the process died (exit status {code})")
        return Outcome(**json.loads(line))

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
                [sys.executable, "-m", "tests.conformance.worker"], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if self._line(self.process, START_SECONDS) != "ready\n":
                self.stop()
                raise RuntimeError("a conformance worker does not start; run `python -m tests.conformance.worker`")
        return self.process

    @staticmethod
    def _line(process: subprocess.Popen[str], timeout: float) -> str | None:
        """The next line, "" when the process ended, None when it stayed silent. One line is one answer: nothing is buffered."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        return process.stdout.readline() if ready else None


def run_all(
    todo: Sequence[tuple[str, str]],
    workers: int = 2,
    timeout: float = 60.0,
    progress: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Outcomes of ``(name, form)`` pairs, in their order.

    Args:
        workers: processes.
        timeout: seconds for one case.
        progress: called with every outcome as it comes, from any thread.
    """
    waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for item in todo:
        waiting.put(item)
    done: dict[tuple[str, str], Outcome] = {}
    failures: list[BaseException] = []

    def serve() -> None:
        worker = Worker(timeout)
        try:
            while True:
                name, form = waiting.get_nowait()
                outcome = worker.check(name, form)
                done[name, form] = outcome
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
    return [done[item] for item in todo]

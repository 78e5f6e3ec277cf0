"""Worker processes that survive what they test: one that dies or hangs is started again for the next request."""

from __future__ import annotations

import contextlib
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0
T = TypeVar("T")


class Server:
    """A process ``python -m module`` that says ``ready``, then answers lines with lines."""

    def __init__(self, module: str) -> None:
        self.module = module
        self._process: subprocess.Popen[str] | None = None

    def ask(self, line: str, timeout: float) -> str | None:
        """The first line of the answer to a request; see ``next``."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self.next(timeout)

    def next(self, timeout: float) -> str | None:
        """The next line without its end, "" where the process ended, None where it stayed silent for ``timeout`` seconds."""
        assert self._process is not None
        assert self._process.stdout is not None
        # as many lines are read as were written: nothing is left in the buffer that select doesn't see
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        return self._process.stdout.readline().rstrip("\n") if ready else None

    def why(self, answer: str | None, timeout: float) -> str:
        """What became of a process whose answer was "" or None; it is stopped."""
        assert self._process is not None
        reason = f"no result after {timeout:g} s"
        if answer is not None:
            reason = f"the process died (exit status {self._process.wait()})"
        self.stop()
        return reason

    def stop(self) -> None:
        """End the process; the next request starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):  # closing writes what a dead process never read
                        stream.close()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if self.next(START_SECONDS) != "ready":
                self.stop()
                raise RuntimeError(f"a worker does not start; run `python -m {self.module}`")
        return self._process


def serve_all(requests: Sequence[T], module: str, workers: int, serve: Callable[[Server, T], None]) -> None:
    """Call ``serve`` with every request and a server, from as many threads as there are workers.

    Raises:
        Exception: the first that ``serve`` raised.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    for request in requests:
        waiting.put(request)
    failures: list[BaseException] = []

    def work() -> None:
        server = Server(module)
        try:
            while not failures:
                serve(server, waiting.get_nowait())
        except queue.Empty:
            pass
        except BaseException as e:
            failures.append(e)
        finally:
            server.stop()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

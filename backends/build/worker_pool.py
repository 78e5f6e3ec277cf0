"""Compiling kernels on all CPUs: this process and worker processes take from one queue, the largest kernels first.

A worker needs about a second to import TVM, during which this process already compiles; so workers are started only for
work that lasts longer. One that can't start, dies or hangs costs time and a note: its kernel is compiled here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from graphopt.backends.base.host import default_threads
from graphopt.backends.base.scratch import scratch_folder
from graphopt.backends.base.target import Target
from graphopt.backends.build.compile_worker import DONE, read_frame, write_frame
from graphopt.backends.build.kernel_object import KernelSource, compile_kernel

KERNEL_LIMIT_S = 300.0
"""A worker that has been at one kernel for longer is given up."""
START_S = 1.2
"""What a worker costs before its first kernel: importing TVM."""
JOBS_VARIABLE = "GRAPHOPT_JOBS"
"""How many processes compile where a caller doesn't say: for builds and tests that compile several models at once."""
_MODULE = "graphopt.backends.build.compile_worker"
_SECONDS_PER_KERNEL = 0.03
_SECONDS_PER_BYTE = 6e-6
"""Of the PrimFunc as JSON; measured, with the constant above, on the convolutions of the zoo."""


@dataclass
class PoolReport:
    """How a set of kernels was compiled.

    Attributes:
        by_workers: kernels that came from worker processes.
        notes: what went wrong with workers, a line each.
    """

    by_workers: int = 0
    notes: list[str] = field(default_factory=list)


def compile_kernels(
    sources: Sequence[KernelSource], target: Target, jobs: int | None = None, command: Sequence[str] | None = None
) -> tuple[list[bytes], PoolReport]:
    """The objects of ``sources``, in order; the bytes don't depend on who compiled them.

    Args:
        sources: kernels.
        target: what to compile for.
        jobs: processes at most, this one included; by default `default_jobs`.
        command: what to start as a worker.

    Raises:
        Exception: of any class, as TVM raises it, for a kernel that has no code.
    """
    processes = jobs if jobs is not None else default_jobs()
    count = min(processes - 1, worthwhile_workers(sources))
    return _Pool(sources, target).run(count, command or worker_command())


def default_jobs() -> int:
    """``$GRAPHOPT_JOBS`` where that is a number of processes, else one for each CPU that this process may use."""
    wanted = os.environ.get(JOBS_VARIABLE, "")
    return int(wanted) if re.fullmatch(r"[0-9]*[1-9][0-9]*", wanted, re.ASCII) else default_threads()


def worthwhile_workers(sources: Sequence[KernelSource]) -> int:
    """How many workers pay for their start: none for work of a few seconds."""
    seconds = sum(_SECONDS_PER_KERNEL + _SECONDS_PER_BYTE * len(s.text) for s in sources)
    return max(0, min(len(sources) - 1, int((seconds - START_S) / START_S)))


def worker_command() -> list[str]:
    """The command line of a worker; empty when this process is not run by a Python that can be started again."""
    python = Path(sys.executable or "")
    if getattr(sys, "frozen", False) or not python.name.lower().startswith(("python", "pypy")):
        return []
    return [str(python), "-m", _MODULE]


class _Worker:
    """A child process. In a session of its own: Ctrl-C is for this process, which ends it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        # started in the folder that holds the package, so that `-m` finds this graphopt and nothing of the user's
        self.process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_package_parent(),
            env=dict(environment),
            start_new_session=True,
        )
        self._requests = cast(BinaryIO, self.process.stdin)
        self._replies = cast(BinaryIO, self.process.stdout)

    def ask(self, request: bytes) -> bytes | None:
        """The reply; None when the process is gone."""
        try:
            write_frame(self._requests, request)
            return read_frame(self._replies)
        except (OSError, ValueError):  # a broken pipe, or closed by `end`
            return None

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()


class _Pool:
    """One set of kernels.

    Attributes:
        waiting: indices that anybody may take.
        own: indices that only this process may take: workers failed on them.
        running: who compiles what, since when.
    """

    def __init__(self, sources: Sequence[KernelSource], target: Target) -> None:
        self.sources = sources
        self.target = target
        self.waiting = deque(sorted(range(len(sources)), key=lambda i: -len(sources[i].text)))
        self.own: deque[int] = deque()
        self.running: dict[int, tuple[_Worker, float]] = {}
        self.done: dict[int, bytes] = {}
        self.report = PoolReport()
        self.change = threading.Condition()
        self.ending = False

    def run(self, count: int, command: Sequence[str]) -> tuple[list[bytes], PoolReport]:
        """Compile everything with up to ``count`` workers."""
        with scratch_folder() as folder:
            workers = self._start(count, command, str(folder)) if command else []
            threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in workers]
            try:
                for thread in threads:
                    thread.start()
                self._work()
            finally:
                with self.change:
                    self.ending = True
                for worker in workers:
                    worker.end()
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()
        return [self.done[i] for i in range(len(self.sources))], self.report

    def _start(self, count: int, command: Sequence[str], folder: str) -> list[_Worker]:
        workers: list[_Worker] = []
        # their temporary files lie in a folder of ours, so nothing stays when they are ended
        environment = {**os.environ, "TMPDIR": folder}
        for _ in range(count):
            try:
                workers.append(_Worker(command, environment))
            except OSError as error:
                self.report.notes.append(f"no worker process could be started: {error}")
                break
        return workers

    def _work(self) -> None:
        """This process's share, and waiting for the others'."""
        while True:
            with self.change:
                queue = self.own or self.waiting
                index = queue.popleft() if queue else None
                if index is None and not self.running:
                    return
                if index is None:
                    self.change.wait(timeout=1.0)
                    self._give_up_on_the_late()
                    continue
            content = compile_kernel(self.sources[index], self.target)
            with self.change:
                self.done[index] = content

    def _give_up_on_the_late(self) -> None:
        now = time.monotonic()
        for worker, since in list(self.running.values()):
            if now - since > KERNEL_LIMIT_S:
                worker.process.kill()  # its thread sees the end of the pipe

    def _serve(self, worker: _Worker) -> None:
        """Keep one worker busy."""
        if worker.ask(json.dumps(self.target.to_dict()).encode()) is None:
            self._lost(worker, None)
            return
        while (index := self._take(worker)) is not None:
            source = self.sources[index]
            reply = worker.ask(json.dumps([source.name, source.text]).encode())
            with self.change:
                del self.running[index]
                if reply is not None and reply[:1] == DONE:
                    self.done[index] = reply[1:]
                    self.report.by_workers += 1
                else:
                    self.own.append(index)  # compiled here, it raises what TVM has to say
                self.change.notify()
            if reply is None:
                self._lost(worker, source.name)
                return

    def _take(self, worker: _Worker) -> int | None:
        with self.change:
            if self.ending or not self.waiting:
                return None
            index = self.waiting.popleft()
            self.running[index] = (worker, time.monotonic())
            return index

    def _lost(self, worker: _Worker, kernel: str | None) -> None:
        with self.change:
            if self.ending:
                return
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=5.0)
            where = f"while compiling {kernel}" if kernel else "before its first kernel"
            self.report.notes.append(
                f"a compile worker ended {where} (exit status {worker.process.returncode}); this process went on"
            )


def _package_parent() -> Path:
    import graphopt

    return Path(graphopt.__file__).resolve().parents[1]

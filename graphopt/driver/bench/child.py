"""A contender in a process of its own, which stands still while others are timed.

Runtimes that take turns in one process disturb each other: the idle threads of their pools spin for a while before they sleep
(on two cores, ONNX Runtime's SqueezeNet took 7.5 ms beside three others and 2.1 ms alone). So each has a process, which the
system stops (SIGSTOP) between its turns.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from graphopt.driver.bench.array_files import read_arrays, write_arrays
from graphopt.driver.bench.measure import OpenAxes
from graphopt.errors import CompileError
from graphopt.ir.graph import Array

LOAD_LIMIT_S = 900.0
"""A process that hasn't loaded and run its model then hangs."""
TURN_LIMIT_S = 300.0
"""... and one that hasn't answered after a turn."""
_COMMAND = ("-m", "graphopt.driver.bench.worker")
_STOP, _GO = (getattr(signal, name, None) for name in ("SIGSTOP", "SIGCONT"))
"""Systems without these signals leave it to runtimes to be idle; `SETTLE_S` of ``measure`` is waited there."""
_LAST_WORDS = 300


@dataclass(frozen=True)
class Entrant:
    """What a process loads.

    Attributes:
        name: for tables.
        title: the runtime's, for errors.
        prepare: ``module:function`` that makes a run, as ``prepare`` in ``graphopt.driver.bench.peers``.
        source: path of the model.
        feed: inputs by name.
        threads: CPU threads.
        open: axes of inputs, by name, that the runtime must not take for fixed.
        module: to import before memory is counted.
        head: path of a model of the same inputs and outputs, without anything between them.
        compile_s: seconds that were spent on the model before; those of loading are added.
    """

    name: str
    title: str
    prepare: str
    source: Path
    feed: Mapping[str, Array] = field(repr=False)
    threads: int
    open: OpenAxes = field(default_factory=dict)
    module: str | None = None
    head: Path | None = None
    compile_s: float = 0.0


class Child:
    """Starts a process that loads a model, and has it run.

    Attributes:
        outputs: results of the first run.
        ready_s: seconds until the model could run.
        loading_bytes: memory at most while it was loaded and run once, beyond what its libraries and inputs take; None where
            the system doesn't say.
        running_bytes: the same, of the turns.

    Args:
        entrant: what to load.
        folder: for files, of this child alone.

    Raises:
        CompileError: the runtime can't take the model, or its process ended, or doesn't answer.
    """

    def __init__(self, entrant: Entrant, folder: Path) -> None:
        self.entrant = entrant
        self.running_bytes: int | None = None
        feed, outputs, self._errors = (folder / name for name in ("feed.npz", "outputs.npz", "stderr.txt"))
        write_arrays(feed, entrant.feed)
        setup = {
            "prepare": entrant.prepare, "module": entrant.module, "source": str(entrant.source.absolute()), "feed": str(feed),
            "outputs": str(outputs), "head": str(entrant.head) if entrant.head else None, "threads": entrant.threads,
            "open": {name: list(axes) for name, axes in entrant.open.items()},
        }  # fmt: skip
        # the modules that this process would import, wherever it is started from
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *_COMMAND, json.dumps(setup)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        assert self._process.stdout is not None
        threading.Thread(target=_pass_on, args=(self._process.stdout, self._lines), daemon=True).start()
        try:
            answer = self._answer(LOAD_LIMIT_S)
            self.ready_s = entrant.compile_s + _number(answer, "ready_s", self._rubbish)
            self.loading_bytes = _bytes(answer, self._rubbish)
            try:
                self.outputs = read_arrays(outputs)
            except (OSError, ValueError) as error:
                raise self._failure(f"its results can't be read ({error})") from error
            self._signal(_STOP)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def turn(self, warm_s: float, timed_s: float) -> list[float]:
        """Let it run, others standing still meanwhile; the seconds of each run that was timed.

        Args:
            warm_s: that it runs before anything counts, at least once: threads and caches wake up.
            timed_s: that it runs then, at least once.

        Raises:
            CompileError: the process ended, or doesn't answer.
        """
        self._signal(_GO)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"warm_s": warm_s, "timed_s": timed_s}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure(self._end()) from error
        answer = self._answer(TURN_LIMIT_S + warm_s + timed_s)
        self._signal(_STOP)
        seconds = answer.get("seconds")
        if not isinstance(seconds, list) or not seconds or not all(isinstance(s, float) and s >= 0 for s in seconds):
            raise self._rubbish(answer)
        used = _bytes(answer, self._rubbish)
        self.running_bytes = used if self.running_bytes is None else max(self.running_bytes, used or 0)
        return seconds

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):  # what was left to write has nobody to read it
            self._process.stdin.close()

    def _signal(self, number: int | None) -> None:
        if number is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            raise self._failure(f"it doesn't answer for {limit_s:.0f} s") from None
        if not line:
            raise self._failure(self._end())
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._rubbish(line.decode(errors="replace").strip())
        if "error" in answer:
            raise self._failure(f"{answer.get('kind')}: {reason(str(answer['error']))}")
        return answer

    def _end(self) -> str:
        """How it ended, with its last words."""
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = [line for line in self._errors.read_text(errors="replace").splitlines() if line.strip()]
        return f"its process ended with {how}{f', saying: {lines[-1][-_LAST_WORDS:]}' if lines else ''}"

    def _rubbish(self, answer: Any) -> CompileError:
        return self._failure(f"its process answers what nobody asked: {str(answer)[:_LAST_WORDS]}")

    def _failure(self, why: str) -> CompileError:
        return CompileError(
            f"{self.entrant.title} can't take the model: {why}",
            code="peer-failed", hint=f"leave out --compare {self.entrant.name}",
        )  # fmt: skip


def reason(text: str) -> str:
    """The first telling lines of an error: peers begin with the place in their sources, or with a stack."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "Summary", "Stack"))]
    return " ".join((telling or lines)[:4])[:250]


def _pass_on(pipe: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Hand over lines as they come, an empty one at the end: a pipe alone can't be waited for with a limit everywhere."""
    with pipe:
        for line in pipe:
            lines.put(line)
    lines.put(b"")


def _number(answer: Mapping[str, Any], key: str, rubbish: Callable[[Any], CompileError]) -> float:
    value = answer.get(key)
    if not isinstance(value, float):
        raise rubbish(answer)
    return value


def _bytes(answer: Mapping[str, Any], rubbish: Callable[[Any], CompileError]) -> int | None:
    value = answer.get("bytes", "")
    if value is not None and not isinstance(value, int):
        raise rubbish(answer)
    return value

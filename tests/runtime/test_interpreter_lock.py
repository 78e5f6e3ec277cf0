"""Short runs keep Python's lock, long ones let go of it, whatever they took before."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphopt
from graphopt.runtime.interpreter_lock import SHORT_S, InterpreterLock
from tests.support.onnx_graphs import model_of

SHORT, LONG, CONTENDED = SHORT_S / 2, 1.0, 4 * SHORT_S


class _Clock:
    """A function and its clock: a call takes ``seconds``, and ``waits`` more if it has to get the lock back."""

    def __init__(self) -> None:
        self.now, self.seconds, self.waits, self.release_gil = 0.0, SHORT, 0.0, False
        self.kept: list[bool] = []

    def __call__(self, *arguments: Any) -> Any:
        self.kept.append(not self.release_gil)
        self.now += self.seconds + (self.waits if self.release_gil else 0)
        return arguments


def call(lock: InterpreterLock, clock: _Clock, times: int = 1) -> list[bool]:
    """Calls of the function, each reported; whether each kept the lock."""
    for _ in range(times):
        start = clock.now
        clock()
        lock.note(clock.now - start)
    return clock.kept


def test_short_calls_keep_the_lock() -> None:
    clock = _Clock()
    lock = InterpreterLock(clock)
    assert clock.release_gil, "nothing is known of the first one"
    assert call(lock, clock, 3) == [False, True, True]
    assert lock.kept


def test_a_long_call_after_short_ones_is_the_last_that_keeps_it() -> None:
    clock = _Clock()
    lock = InterpreterLock(clock)
    call(lock, clock, 2)
    clock.seconds = LONG
    assert call(lock, clock, 300) == [False, True, True] + [False] * 299, "and long ones are never tried with it"
    assert not lock.kept


def test_short_calls_are_found_when_the_lock_is_fought_for() -> None:
    clock = _Clock()
    clock.waits = CONTENDED
    kept = call(InterpreterLock(clock), clock, 100)
    first = kept.index(True)
    assert first < 70
    assert all(kept[first:])


def test_calls_that_are_not_quite_short_are_tried_now_and_then() -> None:
    clock = _Clock()
    clock.seconds = 2 * SHORT_S
    assert 10 <= sum(call(InterpreterLock(clock), clock, 1000)) <= 20


def _last(compiled: Any) -> InterpreterLock:
    """That of the extents which came last."""
    found: InterpreterLock = compiled._executor._idle[-1]._placements._last[1].lock
    return found


def test_runs_are_reported() -> None:
    """Of a model of one microsecond all but the first keep the lock, of one of milliseconds none."""
    made = model_of({"x": "float[n]"}, "a = Exp(x)\nb = Exp(a)\ny = Sin(b)")
    compiled = graphopt.compile(made, "native", threads=1)
    small, large = np.ones(4, np.float32), np.ones(3_000_000, np.float32)
    for _ in range(100):  # a run that the system interrupted counts as long
        compiled.run({"x": small})
        if _last(compiled).kept:
            break
    else:
        raise AssertionError("short runs let go of the lock")
    compiled.run({"x": large})
    assert not _last(compiled).kept

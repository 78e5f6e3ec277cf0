"""Short runs keep Python's lock, long ones let go of it, whatever they took before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from graphopt.runtime import interpreter_lock
from graphopt.runtime.interpreter_lock import SHORT_S, TimedCalls

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

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Clock]:
    made = _Clock()
    monkeypatch.setattr(interpreter_lock, "perf_counter", made.time)
    return made


def test_short_calls_keep_the_lock(clock: _Clock) -> None:
    calls = TimedCalls(clock)
    assert clock.release_gil, "nothing is known of the first one"
    assert [calls(1, 2) for _ in range(3)] == [(1, 2)] * 3
    assert clock.kept == [False, True, True]


def test_a_long_call_after_short_ones_is_the_last_that_keeps_it(clock: _Clock) -> None:
    calls = TimedCalls(clock)
    calls(), calls()
    clock.seconds = LONG
    for _ in range(300):
        calls()
    assert clock.kept == [False, True, True] + [False] * 299, "and long ones are never tried with it"


def test_short_calls_are_found_when_the_lock_is_fought_for(clock: _Clock) -> None:
    clock.waits = CONTENDED
    calls = TimedCalls(clock)
    for _ in range(100):
        calls()
    first = clock.kept.index(True)
    assert first < 70
    assert all(clock.kept[first:])


def test_calls_that_are_not_quite_short_are_tried_now_and_then(clock: _Clock) -> None:
    clock.seconds = 2 * SHORT_S
    calls = TimedCalls(clock)
    for _ in range(1000):
        calls()
    assert 10 <= sum(clock.kept) <= 20

"""The compiled clock keeps one time a call, whatever it is called with."""

from __future__ import annotations

import time

import numpy as np

from graphopt.backends.base.tvm_api import tvm
from graphopt.backends.build.call_clock import CallClock
from graphopt.backends.targets.grammar import parse_target


def test_times_of_calls() -> None:
    clock = CallClock(3, parse_target("native", 1))
    assert clock.nanoseconds().size == 0
    start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    clock.function(None, "name", True, tvm.runtime.tensor(np.zeros(3)))
    clock.function()
    stop = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    first, second = clock.nanoseconds()
    assert start <= first <= second <= stop
    clock.clear()
    assert clock.nanoseconds().size == 0
    clock.function(1)
    assert clock.nanoseconds()[0] >= second


def test_calls_beyond_the_capacity_do_no_harm() -> None:
    clock = CallClock(2, parse_target("native", 1))
    for i in range(50):
        clock.function(i)
    kept = clock.nanoseconds()
    assert kept.size == 2
    assert kept[0] <= kept[1]

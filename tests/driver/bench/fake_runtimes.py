"""Runtimes that misbehave, for the processes that contenders run in: named as ``module:function``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Mapping[str, Any]]


def doubles(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """As it should be."""
    return lambda: {"y": 2 * feed["x"]}


def slow(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """As it should be, in some milliseconds."""

    def run() -> Mapping[str, Any]:
        time.sleep(0.02)
        return {"y": 2 * feed["x"]}

    return run


def wrong(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """Another result."""
    return lambda: {"y": 3 * feed["x"]}


def zeros(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """Nothing but zeros, five a row."""
    return lambda: {"y": np.zeros((len(feed["x"]), 5), np.float32)}


def noisy(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """Writes to standard output, by Python and past it."""

    def run() -> Mapping[str, Any]:
        print('{"seconds": [1e-9]}', flush=True)
        os.write(1, b"rubbish\x00\xff\n{}\n")
        sys.stdout.flush()
        return {"y": 2 * feed["x"]}

    run()
    return run


def refuses(*_: Any) -> Run:
    """Can't take the model."""
    raise ValueError("Exception from src/plugin.cpp:17:\nno kernel for Frobnicate\n\n")


def crashes(*_: Any) -> Run:
    """Ends the process while it loads."""
    print("about to die", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def exits(*_: Any) -> Run:
    """Ends the process as C++ libraries do."""
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(7)


def crashes_later(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """Ends the process in its fourth run."""
    runs = 0

    def run() -> Mapping[str, Any]:
        nonlocal runs
        runs += 1
        if runs == 4:
            os.abort()
        time.sleep(0.02)
        return {"y": 2 * feed["x"]}

    return run


def hangs(*_: Any) -> Run:
    """Never loads."""
    time.sleep(600)
    raise AssertionError


def hangs_later(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """Hangs in its second run."""
    runs = 0

    def run() -> Mapping[str, Any]:
        nonlocal runs
        runs += 1
        time.sleep(600 if runs > 1 else 0)
        return {"y": 2 * feed["x"]}

    return run


def hungry(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """Takes 64 MB to load and 32 MB to run, of which it gives back all."""
    np.ones(64 << 17).sum()

    def run() -> Mapping[str, Any]:
        np.ones(32 << 17).sum()
        return {"y": 2 * feed["x"]}

    return run


def spins(source: Path, head: Any, feed: Mapping[str, Any], *_: Any) -> Run:
    """Has a thread beside that never rests, as pools have."""

    def spin() -> None:
        while True:
            pass

    threading.Thread(target=spin, daemon=True).start()

    def run() -> Mapping[str, Any]:
        time.sleep(0.01)
        return {"y": 2 * feed["x"]}

    return run

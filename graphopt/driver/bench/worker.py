"""The process of one contender: it loads a model in one runtime and runs it when it is asked to, and does nothing in between.

It is told what to load by its first argument, and gets requests as lines of JSON on its standard input; its answers are lines of
JSON, too. Arrays go through ``.npz`` files, without pickle. ``graphopt.driver.bench.child`` is the other end of the pipe.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from graphopt.driver.bench.array_files import read_arrays, write_arrays
from graphopt.driver.bench.resident import peak_bytes, reset_peak, resident_bytes
from graphopt.ir.graph import Array

_PR_SET_PDEATHSIG = 1


class Runner:
    """A model that is loaded.

    Args:
        setup: what `graphopt.driver.bench.child.Child` was given.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        if setup["module"] is not None:
            importlib.import_module(setup["module"])
        module, _, function = setup["prepare"].partition(":")
        prepare = getattr(importlib.import_module(module), function)
        feed = read_arrays(Path(setup["feed"]))
        head = _head(setup["head"])
        gc.collect()
        self._base = resident_bytes()
        reset_peak()
        start = time.perf_counter()
        self._run: Callable[[], Mapping[str, Array]] = prepare(
            Path(setup["source"]), head, feed, setup["threads"], setup["open"]
        )
        ready_s = time.perf_counter() - start
        results = self._run()
        self.loaded = {"ready_s": ready_s, "bytes": self._above_base()}
        write_arrays(Path(setup["outputs"]), results)
        reset_peak()

    def turn(self, warm_s: float, timed_s: float) -> dict[str, Any]:
        """Run for a while and then for a while more, at least once each; seconds of each run of the second part."""
        run, clock = self._run, time.perf_counter
        times: list[float] = []
        gc.disable()
        try:
            woken = clock() + warm_s
            run()
            while clock() < woken:
                run()
            now = clock()
            end = now + timed_s
            while not times or now < end:
                run()
                times.append((after := clock()) - now)
                now = after
        finally:
            gc.enable()
        return {"seconds": times, "bytes": self._above_base()}

    def _above_base(self) -> int | None:
        peak = peak_bytes()
        return None if peak is None or self._base is None else max(peak - self._base, 0)


def _head(path: str | None) -> Any:
    """Inputs and outputs of the model, for peers that look at them."""
    if path is None:
        return None
    import onnx

    return onnx.load_model(path)


def _end_with_parent() -> None:
    """Have the system kill this process when the one that started it ends: a stopped process can't see its pipe close."""
    with suppress(OSError, AttributeError, TypeError):  # where the system isn't Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _answer(file: IO[str], given: Mapping[str, Any]) -> None:
    file.write(json.dumps(given) + "\n")
    file.flush()


def main() -> None:
    """Load, then answer until standard input ends."""
    _end_with_parent()
    # Libraries write to standard output from C++: answers go to where it led, everything else to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        runner = Runner(json.loads(sys.argv[1]))
        _answer(answers, runner.loaded)
        for line in sys.stdin:
            request = json.loads(line)
            _answer(answers, runner.turn(request["warm_s"], request["timed_s"]))
    except Exception as error:  # runtimes raise any class
        traceback.print_exc()
        _answer(answers, {"error": str(error), "kind": type(error).__name__})
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main()

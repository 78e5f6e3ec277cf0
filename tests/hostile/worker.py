"""A process that gives compiled models hostile values and prints what went wrong, one JSON object for each value.

It is a process of its own so that a crash is seen, and so that the memory it may use can be limited.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 6 * 2**30
"""Bytes of address space; TVM and its threads take most of one GiB."""
SLOW = 30.0
"""Seconds of processor time after which one run counts as hanging: other work on the machine does not count."""


def main() -> None:
    """``worker SEED COUNT [NAME]``: so many values, spread over all cases, or over the one named."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    from graphopt.driver.compiling import compile
    from tests.hostile.cases import all_cases

    seed, count = int(sys.argv[1]), int(sys.argv[2])
    cases = [case for case in all_cases() if len(sys.argv) < 4 or case.name == sys.argv[3]]
    for n, case in enumerate(cases):
        rng = np.random.default_rng([seed, *case.name.encode()])
        compiled = compile(case.model, "x86", threads=2)
        for _ in range(count // len(cases) + (n < count % len(cases))):
            feed = case.feed(rng)
            answers.write(json.dumps({"case": case.name, **_tried(case, compiled, feed)}) + "\n")
    answers.write(json.dumps({"peak": _peak()}) + "\n")


def _peak() -> int:
    """Most bytes of memory that this program had; ``getrusage`` would count those of the process that started it too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10


def _tried(case: Any, compiled: Any, feed: dict[str, Any]) -> dict[str, Any]:
    """How a run ended: ``ok``, ``refused``, or what is ``wrong``."""
    from graphopt.errors import GraphOptError

    legal = case.legal(feed)
    shown = {k: v.tolist() if v.size <= 16 else list(v.shape) for k, v in feed.items()}
    start = time.process_time()
    try:
        got = compiled.run(feed)
    except GraphOptError as e:
        wrong = f"refused though legal: {e}" if legal else None
        return {"outcome": "refused", "wrong": wrong, "feed": shown} if wrong else {"outcome": "refused"}
    except Exception as e:  # any other class is what is looked for
        return {"outcome": "raised", "wrong": f"{type(e).__name__}: {e}", "feed": shown}
    if time.process_time() - start > SLOW:
        return {"outcome": "slow", "wrong": f"took {time.process_time() - start:.0f} s", "feed": shown}
    if legal is False:
        shapes = {k: list(v.shape) for k, v in got.items()}
        return {"outcome": "accepted", "wrong": f"accepted though illegal, gave {shapes}", "feed": shown}
    if legal is None:
        return {"outcome": "open"}
    return _compared(case, feed, got, shown)


def _compared(case: Any, feed: dict[str, Any], got: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    from tests.support.run_node import reference, same

    want = reference(case.model, feed)
    try:
        for name, array in want.items():
            same(name, got[name], array)
    except AssertionError as e:
        return {"outcome": "differs", "wrong": str(e), "feed": shown}
    return {"outcome": "ok"}


if __name__ == "__main__":
    main()

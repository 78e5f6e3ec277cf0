"""``python -m tests.random_graphs [--count N] [--seed N]``: random graphs against ONNX Runtime, a table of what became of them.

The table so far is printed again and again, so that a run that is stopped keeps it.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from tests.random_graphs.check import FAILURES, LEVELS, OUTCOMES, WAYS, Outcome
from tests.random_graphs.pool import run_all


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 if anything is wrong, crashes or fails otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.random_graphs", description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="graphs")
    parser.add_argument("--seed", type=int, default=0, help="of the first graph")
    parser.add_argument("--level", type=int, choices=LEVELS, action="append", help="only this level")
    parser.add_argument("--way", choices=tuple(WAYS), default="compile", help="compile, or only run the graph passes")
    parser.add_argument("--together", type=int, default=12, help="graphs side by side in one model")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one graph at one level")
    parser.add_argument("--json", type=Path, help="write outcomes as they come, one JSON object a line")
    parser.add_argument("--minimise", type=Path, help="write the smallest form of every failing graph into this folder")
    args = parser.parse_args(argv)
    seeds = range(args.seed, args.seed + args.count)
    groups = [tuple(seeds[i : i + args.together]) for i in range(0, args.count, args.together)]
    requests = [(group, level) for group in groups for level in args.level or LEVELS]
    with args.json.open("w") if args.json else nullcontext() as file:
        progress = _Progress(file)
        outcomes = run_all(requests, args.way, args.workers, args.timeout, progress)
    progress.print_table()
    failures = [o for o in outcomes if o.kind in FAILURES]
    if args.minimise:
        from tests.random_graphs.minimise import write_smallest

        for outcome in failures:
            print(
                f"{outcome.seed} -O{outcome.level} {outcome.kind}: {write_smallest(outcome, args.way, args.minimise)}"
            )
    return int(bool(failures))


class _Progress:
    """Prints what fails at once, and the table every minute; called from several threads.

    Attributes:
        counts: of outcomes, by level and kind.
    """

    def __init__(self, file: TextIO | None) -> None:
        self.counts: collections.Counter[tuple[int, str]] = collections.Counter()
        self.file = file
        self.start = self.printed = time.monotonic()
        self.lock = threading.Lock()

    def __call__(self, outcome: Outcome) -> None:
        with self.lock:
            self.counts[outcome.level, outcome.kind] += 1
            if self.file is not None:
                print(json.dumps(outcome.to_dict()), file=self.file, flush=True)
            if outcome.kind in (*FAILURES, "refused", "refused input"):
                detail = " | ".join(outcome.detail.splitlines())
                print(f"{outcome.kind.upper()} seed {outcome.seed} -O{outcome.level} {detail}", flush=True)
            if time.monotonic() - self.printed > 60:
                self.print_table()

    def print_table(self) -> None:
        """How many graphs of each level came to what."""
        self.printed = time.monotonic()
        for level in sorted({level for level, _ in self.counts}):
            counts = {kind: self.counts[level, kind] for kind in OUTCOMES}
            told = ", ".join(f"{number} {kind}" for kind, number in counts.items())
            print(f"-O{level}: {told} of {sum(counts.values())}")
        print(f"{self.printed - self.start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.random_graphs [--count N] [--seed N]``: random graphs against ONNX Runtime, a table of what became of them."""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
from pathlib import Path

from tests.random_graphs.check import FAILURES, LEVELS, OUTCOMES, WAYS, Outcome
from tests.random_graphs.pool import run_all


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 if anything is wrong, crashes or fails otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.random_graphs", description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="graphs")
    parser.add_argument("--seed", type=int, default=0, help="of the first graph")
    parser.add_argument("--level", type=int, choices=LEVELS, action="append", help="only this level")
    parser.add_argument("--way", choices=tuple(WAYS), default="compile", help="compile, or only run the graph passes")
    parser.add_argument("--together", type=int, default=6, help="graphs side by side in one model")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one graph at one level")
    parser.add_argument("--json", type=Path, help="write all outcomes")
    parser.add_argument("--minimise", type=Path, help="write the smallest form of every failing graph into this folder")
    args = parser.parse_args(argv)
    start = time.monotonic()
    seeds = range(args.seed, args.seed + args.count)
    groups = [tuple(seeds[i : i + args.together]) for i in range(0, args.count, args.together)]
    requests = [(group, level) for group in groups for level in args.level or LEVELS]
    outcomes = run_all(requests, args.way, args.workers, args.timeout, _print_failure)
    for level in sorted({o.level for o in outcomes}):
        counts = collections.Counter(o.kind for o in outcomes if o.level == level)
        print(f"-O{level}:", ", ".join(f"{counts[kind]} {kind}" for kind in OUTCOMES), f"of {sum(counts.values())}")
    print(f"{time.monotonic() - start:.0f} s")
    if args.json:
        args.json.write_text(json.dumps([o.to_dict() for o in outcomes], indent=0))
    failures = [o for o in outcomes if o.kind in FAILURES]
    if args.minimise:
        from tests.random_graphs.minimise import write_smallest

        for outcome in failures:
            print(
                f"{outcome.seed} -O{outcome.level} {outcome.kind}: {write_smallest(outcome, args.way, args.minimise)}"
            )
    return int(bool(failures))


def _print_failure(outcome: Outcome) -> None:
    if outcome.kind in (*FAILURES, "refused", "refused input"):
        print(
            f"{outcome.kind.upper()} seed {outcome.seed} -O{outcome.level} {' | '.join(outcome.detail.splitlines())}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())

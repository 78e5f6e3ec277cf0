"""Checks all pairs, or those of some element types, and prints counts: ``python -m tests.pairs.run [types] [--every N]``."""

from __future__ import annotations

import argparse
import time

from tests.pairs.operators import TYPES
from tests.pairs.stars import Star, anchored, batches, failures, stars, vectorised


def all_stars(types: list[str]) -> list[Star]:
    """Every pair whose first operator takes one of the types."""
    fast = {t: vectorised(t) for t in TYPES}
    out: list[Star] = []
    for t in types:
        out += stars(t, fast, len(out))
    return out


def check(chosen: list[Star]) -> list[str]:
    """Failures of stars, many to a compiled model."""
    return [f for batch in batches(chosen) for f in failures(batch)]


def main() -> None:
    """Print failures and counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="element types, or anchors", default=[*TYPES, "anchors"])
    parser.add_argument("--every", type=int, default=1, help="only every N-th star")
    options = parser.parse_args()
    begin = time.monotonic()
    chosen = (
        all_stars([t for t in options.types if t != "anchors"]) + (anchored() if "anchors" in options.types else [])
    )[:: options.every]
    total = done = 0
    for batch in batches(chosen):
        for line in failures(batch):
            total += 1
            print(line, flush=True)
        done += len(batch)
        print(f"# {done}/{len(chosen)} stars, {total} failures, {time.monotonic() - begin:.0f} s", flush=True)
    pairs = sum(len(s.others) for s in chosen)
    print(f"{pairs} pairs in {len(chosen)} stars: {total} failures, {(time.monotonic() - begin) / 60:.1f} min")


if __name__ == "__main__":
    main()

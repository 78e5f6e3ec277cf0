"""Checks all pairs, or those of some element types, and prints counts: ``python -m tests.pairs.run [types] [--every N]``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from tests.pairs.operators import TYPES
from tests.pairs.stars import Star, anchored, batches, failures, stars, vectorised


def element_wise_batches(types: Sequence[str], every: int = 1, first: int = 0) -> list[Sequence[Star]]:
    """Every pair whose first operator takes one of the types, or the stars ``first``, ``first + every``, ..."""
    fast = {t: vectorised(t) for t in TYPES}
    out: list[Star] = []
    for t in types:
        out += stars(t, fast, len(out))
    return batches(out[first::every])


def anchor_batches(types: Sequence[str], every: int = 1, first: int = 0) -> list[Sequence[Star]]:
    """Every pair of an anchor and a form on one of the types, or every N-th model of them."""
    return [batch for t in types for batch in batches(anchored(t))][first::every]


def check(chosen: Sequence[Sequence[Star]]) -> list[str]:
    """Failures of stars, each batch a compiled model."""
    return [f for batch in chosen for f in failures(batch)]


def main() -> None:
    """Print failures and counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="element types", default=TYPES)
    parser.add_argument("--only", choices=("pairs", "anchors"), help="leave the other out")
    parser.add_argument("--every", type=int, default=1, help="only every N-th star, or every N-th model of anchors")
    parser.add_argument("--first", type=int, default=0, help="which one to begin with")
    options = parser.parse_args()
    begin, cpu = time.monotonic(), time.process_time()
    chosen: list[Sequence[Star]] = []
    if options.only != "anchors":
        chosen += element_wise_batches(options.types, options.every, options.first)
    if options.only != "pairs":
        chosen += anchor_batches(options.types, options.every, options.first)
    wrong = pairs = 0
    for done, batch in enumerate(chosen, 1):
        for line in failures(batch):
            wrong += 1
            print(line, flush=True)
        pairs += sum(len(s.others) for s in batch)
        seconds = time.process_time() - cpu
        print(f"# {done}/{len(chosen)} models, {pairs} pairs, {wrong} failures, {seconds:.0f} CPU s", flush=True)
    minutes = (time.monotonic() - begin) / 60
    print(f"{pairs} pairs: {wrong} failures, {(time.process_time() - cpu) / 60:.1f} CPU min, {minutes:.1f} min")


if __name__ == "__main__":
    main()

"""Checks all pairs, or those of some element types, and prints counts.

python -m tests.pairs.run [types] [--only pairs|anchors] [--every N] [--jobs N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence

from tests.pairs.operators import TYPES
from tests.pairs.stars import Star, anchored, batches, failures, stars, vectorised


def element_wise_batches(types: Sequence[str], every: int = 1, first: int = 0) -> list[Sequence[Star]]:
    """Every pair whose first operator takes one of the types, or the stars ``first``, ``first + every``, ..."""
    fast = {t: vectorised(t) for t in TYPES}
    out: list[Star] = []
    before = 0
    for t in TYPES:  # also those left out, so that a pair has the same shape whatever it is checked with
        found = stars(t, fast, before)
        before += len(found)
        out += found if t in types else []
    return batches(out[first::every])


def anchor_batches(types: Sequence[str], every: int = 1, first: int = 0) -> list[Sequence[Star]]:
    """Every pair of an anchor and a form on one of the types, or every N-th model of them."""
    return [batch for t in types for batch in batches(anchored(t))][first::every]


def check(chosen: Sequence[Sequence[Star]]) -> list[str]:
    """Failures of stars, each batch a compiled model."""
    return [f for batch in chosen for f in failures(batch)]


def _each(chosen: Sequence[Sequence[Star]], jobs: int) -> Iterator[list[str]]:
    """Failures of each batch, in their order."""
    if jobs == 1:
        yield from map(failures, chosen)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(failures, chosen)
        pool.close()
        pool.join()  # the system counts the time of children that have ended


def _cpu_seconds() -> float:
    """Used by this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    """Print failures and counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="element types", default=TYPES)
    parser.add_argument("--only", choices=("pairs", "anchors"), help="leave the other out")
    parser.add_argument("--every", type=int, default=1, help="only every N-th star, or every N-th model of anchors")
    parser.add_argument("--first", type=int, default=0, help="which one to begin with")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    begin = time.monotonic()
    chosen: list[Sequence[Star]] = []
    if options.only != "anchors":
        chosen += element_wise_batches(options.types, options.every, options.first)
    if options.only != "pairs":
        chosen += anchor_batches(options.types, options.every, options.first)
    wrong = pairs = 0
    for done, (batch, found) in enumerate(zip(chosen, _each(chosen, options.jobs), strict=True), 1):
        for line in found:
            print(line, flush=True)
        wrong += len(found)
        pairs += sum(len(s.others) for s in batch)
        print(f"# {done}/{len(chosen)} models, {pairs} pairs, {wrong} failures", flush=True)
    minutes = (time.monotonic() - begin) / 60
    print(f"{pairs} pairs: {wrong} failures, {_cpu_seconds() / 60:.1f} CPU min, {minutes:.1f} min")


if __name__ == "__main__":
    main()

"""Which combinations of a test's parameters the default run takes: as few as have every value once, the others are slow.

A test over 30 shapes and 3 instruction sets has 90 combinations, of which 30 have every shape, and every instruction set as often
as the others. Tests of few combinations keep them all. ``@pytest.mark.few(n)`` says that n of a test's cases are enough, of those
that say the same of many shapes or operators: the default run takes them evenly from the first to the last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import pytest

FEW = 4
"""Combinations below which all are taken."""


def covering(combinations: Sequence[frozenset[Hashable]]) -> set[int]:
    """Positions of combinations that have every value of all of them, the values spread evenly; the same every time."""
    missing = frozenset[Hashable]().union(*combinations)
    used = Counter[Hashable]()
    left, taken = list(range(len(combinations))), set[int]()
    while missing:
        best = max(left, key=lambda i: (len(combinations[i] & missing), -sum(used[v] for v in combinations[i]), -i))
        left.remove(best)
        taken.add(best)
        missing -= combinations[best]
        used.update(combinations[best])
    return taken


def evenly(count: int, some: int) -> set[int]:
    """Positions of ``some`` of ``count`` cases, the first one among them, or of all if there are no more."""
    return {i * count // min(some, count) for i in range(min(some, count))}


def mark_the_others_slow(items: Sequence[pytest.Item]) -> None:
    """Marks all parametrised tests but those of a covering."""
    by_function: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and item.get_closest_marker("slow") is None:
            by_function[item.nodeid.partition("[")[0]].append(item)
    for same in by_function.values():
        few = same[0].get_closest_marker("few")
        if few is not None:
            taken = evenly(len(same), *few.args)
        elif len(same) < FEW:
            continue
        else:
            taken = covering([_values(item) for item in same])
        for i, item in enumerate(same):
            if i not in taken:
                item.add_marker(pytest.mark.slow)


def _values(item: pytest.Item) -> frozenset[Hashable]:
    """What each of its decorators gave a test: the same objects to all tests of a function."""
    given = dict(item.callspec.params)  # type: ignore[attr-defined]
    found: list[Hashable] = []
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        together = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
        found.append((together, tuple(id(given.pop(name)) for name in together)))
    return frozenset([*found, *((name, id(value)) for name, value in given.items())])

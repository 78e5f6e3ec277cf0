"""Balanced removal from the input of a grouped convolution whose groups cut across what its channels are coupled by.

After a channel shuffle, or a Concat whose parts are no multiples of the group, position ``k`` of group 0 has nothing to do
with position ``k`` of group 1. All that a grouped convolution needs is that every group loses the same *number* of
channels. So classes of coupled channels are bundled until a bundle takes equally many from every group; what finds no
bundle stays. A union of balanced bundles is balanced, so whatever is coupled later keeps the property.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from graphopt.passes.prune.tokens import Labels, Tokens

MAX_TYPES = 8
"""Kinds of classes, by what they take from each group, that are combined at once."""
MAX_OF_TYPE = 4
"""Classes of one kind in a bundle."""


def fits_product(tokens: Tokens, channels: Labels, groups: int) -> bool:
    """Whether (group, position) can label the channels without coupling anything that is free: all of them are
    independent, or coupled by the same product already."""
    if groups == len(channels):
        return True
    roots = [tokens.find(t) for t in channels.tolist()]
    if all(tokens.reason(r) is not None for r in roots):
        return True
    parts = [tokens.parts(r) for r in roots]
    if all(p is None for p in parts):
        return len(set(roots)) == len(roots)
    width = len(roots) // groups
    if any(p is None or len(p) != 2 for p in parts):
        return False
    pairs = [p for p in parts if p is not None]
    return all(
        tokens.find(pairs[i][0]) == tokens.find(pairs[i - i % width][0])
        and tokens.find(pairs[i][1]) == tokens.find(pairs[i % width][1])
        for i in range(len(pairs))
    )


def balance(tokens: Tokens, channels: Labels, groups: int, reason: str) -> None:
    """Couple classes of channels into bundles that take equally many from every group; freeze what is left."""
    _simplify(tokens, channels, reason)
    width = len(channels) // groups
    takes: dict[int, Counter[int]] = defaultdict(Counter)
    for index, token in enumerate(channels.tolist()):
        if tokens.reason(token) is None:
            takes[tokens.find(token)][index // width] += 1
    kinds: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for root, counts in takes.items():
        vector = tuple(counts[g] for g in range(groups))
        if len(set(vector)) > 1:  # the others are balanced by themselves
            kinds[vector].append(root)
    while kinds:
        found = next(_bundles(kinds), None)
        if found is None:
            break
        for _ in range(min(len(kinds[v]) // n for v, n in found.items())):
            members = [kinds[v].pop(0) for v, n in found.items() for _ in range(n)]
            for other in members[1:]:
                tokens.unify(np.asarray([members[0]]), np.asarray([other]))
        kinds = defaultdict(list, {v: roots for v, roots in kinds.items() if roots})
    for roots in kinds.values():
        tokens.freeze(np.asarray(roots), reason)


def _simplify(tokens: Tokens, channels: Labels, reason: str) -> None:
    """Where a channel goes with one of several parts, only the part that takes fewest channels with it stays free."""
    while True:
        use: Counter[int] = Counter()
        compound = []
        for token in channels.tolist():
            parts = tokens.parts(tokens.find(token))
            if parts is not None:
                live = [tokens.find(p) for p in parts if tokens.reason(p) is None]
                compound.append((token, live))
                use.update(live)
        if not compound:
            return
        for token, live in compound:
            finest = min(live, key=lambda p: (use[p], p), default=None)
            for part in live:
                if part != finest:
                    tokens.freeze(np.asarray([part]), reason)
            tokens.reduce(token)


def _bundles(kinds: dict[tuple[int, ...], list[int]]) -> Iterator[dict[tuple[int, ...], int]]:
    """Smallest numbers of classes of each kind that together take equally many from every group."""
    vectors = sorted(kinds, key=lambda v: (-len(kinds[v]), v))[:MAX_TYPES]
    limits = [range(min(MAX_OF_TYPE, len(kinds[v])) + 1) for v in vectors]
    for counts in sorted(itertools.product(*limits), key=sum):
        if any(counts) and len(set(np.asarray(counts) @ np.asarray(vectors))) == 1:
            yield {v: n for v, n in zip(vectors, counts) if n}

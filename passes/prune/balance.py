"""Balanced removal around grouped convolutions: every group loses the same *number* of channels, whichever they are.

That is all that a grouped convolution asks of its input and output. Labelling only takes note of it; once all equations
are known, classes of coupled channels are bundled until a bundle takes equally many from every group of every convolution
around it. A union of balanced bundles is balanced, so any choice of bundles can be removed. What finds no bundle stays.

Bundles come from a walk over the classes. Its state is how far each group is ahead of the mean of its convolution; each
step takes the class that leads closest to balance; and whenever the state was met before, what was taken since then is
balanced by itself and is cut out as a bundle. (Some order keeps the state within a bound that depends on the number of
groups only, by Steinitz's lemma, so bundles stay small.)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.passes.prune.tokens import Labels, Tokens


@dataclass(frozen=True)
class Balance:
    """Channels of a grouped convolution's input or output: every group has to lose equally many."""

    channels: Labels
    groups: int
    reason: str


def fits_product(tokens: Tokens, channels: Labels, groups: int) -> bool:
    """Whether (group, position) can label the channels without coupling anything that is free: all of them are
    independent, or coupled by the same product already."""
    roots = [tokens.find(t) for t in channels.tolist()]
    if all(tokens.reason(r) is not None for r in roots):
        return True
    parts = [tokens.parts(r) for r in roots]
    if all(p is None for p in parts):
        return len(set(roots)) == len(roots)
    width = len(roots) // groups
    pairs = [p for p in parts if p is not None and len(p) == 2]
    return len(pairs) == len(parts) and all(
        tokens.find(pairs[i][0]) == tokens.find(pairs[i - i % width][0])
        and tokens.find(pairs[i][1]) == tokens.find(pairs[i % width][1])
        for i in range(len(pairs))
    )


def bundle(tokens: Tokens, balances: Iterable[Balance]) -> None:
    """Couple or freeze classes of channels until every set of classes that may be removed is balanced."""
    balances = list(balances)
    for balance in balances:
        _simplify(tokens, balance)
    tokens.settle()
    for classes, vectors in _components(tokens, balances):
        reason = balances[0].reason
        for members, balanced in _walk(classes, vectors):
            if balanced:
                for other in members[1:]:
                    tokens.unify(np.asarray([members[0]]), np.asarray([other]))
            else:
                tokens.freeze(np.asarray(members), reason)


def _simplify(tokens: Tokens, balance: Balance) -> None:
    """Where a channel goes with one of several parts, only the part that takes fewest channels with it stays free."""
    while True:
        use: Counter[int] = Counter()
        compound = []
        for token in balance.channels.tolist():
            parts = tokens.parts(token)
            if parts is not None:
                live = [p for p in map(tokens.find, parts) if tokens.reason(p) is None]
                compound.append((token, live))
                use.update(live)
        if not compound:
            return
        for token, live in compound:
            finest = min(live, key=lambda p: (use[p], p), default=None)
            for part in live:
                if part != finest:
                    tokens.freeze(np.asarray([part]), balance.reason)
            tokens.reduce(token)


def _components(tokens: Tokens, balances: list[Balance]) -> Iterator[tuple[list[int], npt.NDArray[np.int64]]]:
    """Classes that share a constraint, directly or not, and what each takes: int [classes, groups of all constraints],
    relative to the mean of the constraint's groups."""
    columns: dict[int, dict[int, npt.NDArray[np.int64]]] = {}
    for index, balance in enumerate(balances):
        width = len(balance.channels) // balance.groups
        taken: dict[int, npt.NDArray[np.int64]] = {}
        for position, token in enumerate(balance.channels.tolist()):
            if tokens.reason(token) is None:
                counts = taken.setdefault(tokens.find(token), np.zeros(balance.groups, np.int64))
                counts[position // width] += 1
        columns[index] = {root: counts * balance.groups - counts.sum() for root, counts in taken.items()}
    pending = set(columns)
    while pending:
        part = {pending.pop()}
        classes = set(columns[next(iter(part))])
        while touching := [i for i in pending if not classes.isdisjoint(columns[i])]:
            for index in touching:
                pending.discard(index)
                part.add(index)
                classes |= set(columns[index])
        ordered = sorted(classes)
        zero = {i: np.zeros(balances[i].groups, np.int64) for i in part}
        rows = [np.concatenate([columns[i].get(root, zero[i]) for i in sorted(part)]) for root in ordered]
        if rows:
            yield ordered, np.unique(np.asarray(rows), axis=1)


def _walk(classes: list[int], vectors: npt.NDArray[np.int64]) -> Iterator[tuple[list[int], bool]]:
    """Bundles, and at last what is left over; with whether they are balanced."""
    kinds: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for root, vector in zip(classes, vectors.tolist()):
        kinds[tuple(vector)].append(root)
    steps = np.asarray(list(kinds), np.int64)
    waiting = list(kinds.values())
    left = np.asarray([len(roots) for roots in waiting])
    state = np.zeros(vectors.shape[1], np.int64)
    path: list[int] = []
    met = {tuple(state.tolist()): 0}
    while left.any():
        distance = ((steps + state) ** 2).sum(axis=1)
        # Among equals the kind with most classes left: it would be the hardest to place at the end.
        kind = min(np.flatnonzero(left), key=lambda k: (int(distance[k]), -int(left[k]), int(k)))
        path.append(waiting[kind][len(waiting[kind]) - left[kind]])
        left[kind] -= 1
        state = state + steps[kind]
        key = tuple(state.tolist())
        if key in met:
            start = met[key]
            yield path[start:], True
            del path[start:]
            met = {k: n for k, n in met.items() if n <= start}
        else:
            met[key] = len(path)
    if path:
        yield path, False

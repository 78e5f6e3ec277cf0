"""Tokens: one unknown bit, "is this removed?", for every index of every axis, and the equations between them.

Three kinds of equation are enough for every operator:

- ``a = b``: the same bit (a union-find);
- ``a = false``: *frozen*, with a reason;
- ``a = p or q or ...``: index ``(i, j)`` of a flattened axis goes when row ``i`` or column ``j`` goes.

The third kind is what lets a reshape of C channels to G groups of K keep its rectangle: every C is ``g or k``, and either a
whole group or the same position of every group can be removed. Whatever these equations merge beyond need is lost as a
choice, never as correctness: every solution keeps all tensors rectangular.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
"""Tokens of the indices of one axis, in order."""


class Tokens:
    """The equations over tokens. Tokens are ints from ``fresh``; ``frozen`` gives ones that are false from the start."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._parts: dict[int, tuple[int, ...]] = {}
        self._reason: dict[int, str] = {}
        self._frozen_by_reason: dict[str, int] = {}
        self._atoms: dict[int, tuple[int, ...]] = {}
        self._roots: Labels | None = None

    # -- making -------------------------------------------------------------------------------------------------
    def fresh(self, count: int) -> Labels:
        """``count`` new tokens that may be removed independently."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def frozen(self, count: int, reason: str) -> Labels:
        """Labels of an axis that must stay whole."""
        if reason not in self._frozen_by_reason:
            token = int(self.fresh(1)[0])
            self._reason[token] = reason
            self._frozen_by_reason[reason] = token
        return np.full(count, self._frozen_by_reason[reason], np.int64)

    # -- equations ----------------------------------------------------------------------------------------------
    def find(self, token: int) -> int:
        """The representative of the token's class."""
        parent = self._parent
        while parent[token] != token:
            parent[token] = parent[parent[token]]
            token = parent[token]
        return token

    def unify(self, a: Labels, b: Labels) -> None:
        """Index ``i`` of one axis goes exactly when index ``i`` of the other goes."""
        if a is b:
            return
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            if self.find(x) != self.find(y):
                self._union(x, y)

    def freeze(self, labels: Labels, reason: str) -> None:
        """All indices of the axis stay."""
        for token in set(labels.tolist()):
            self._freeze(token, reason)

    def bind(self, token: int, parts: Iterable[int]) -> None:
        """``token`` goes exactly when one of ``parts`` goes. Frozen parts drop out; a single part is the token itself."""
        live = list(dict.fromkeys(self.find(p) for p in parts))
        loose = [p for p in live if p not in self._reason]
        if not loose:
            self._freeze(token, self._reason[live[0]] if live else "nothing that could be removed holds it")
        elif len(loose) == 1:
            self._union(token, loose[0])
        else:
            self._define(self.find(token), tuple(loose))

    def parts(self, token: int) -> tuple[int, ...] | None:
        """What the token is an "or" of so far, None when it is no such thing."""
        return self._parts.get(self.find(token))

    def reduce(self, token: int) -> None:
        """Drop frozen parts from the token's definition."""
        root = self.find(token)
        parts = self._parts.pop(root, None)
        if parts is not None:
            self.bind(root, parts)

    # -- solution -----------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Resolve what was defined before its parts were merged or frozen. To be called after the last equation."""
        self._atoms, self._roots = {}, None
        changed = True
        while changed:
            changed = False
            for root in [r for r in self._parts if self.find(r) == r]:
                parts = self._parts.get(root)
                if parts is None:
                    continue
                if root in self._reason:
                    del self._parts[root]
                    for part in parts:
                        self._freeze(part, self._reason[root])
                    changed = True
                    continue
                live = tuple(dict.fromkeys(p for p in map(self.find, parts) if p not in self._reason))
                if len(live) < 2:
                    reason = next((self._reason[self.find(p)] for p in parts if self.find(p) in self._reason), "frozen")
                    del self._parts[root]
                    if live:
                        self._union(root, live[0])
                    else:
                        self._freeze(root, reason)
                    changed = True
                else:
                    self._parts[root] = live
            if not changed:
                for root in self._in_circles():
                    self._collapse(root)
                    changed = True

    def atoms(self, token: int) -> tuple[int, ...]:
        """The independent bits whose "or" is the token: empty when it is frozen. Valid after ``settle``."""
        stack = [self.find(token)]
        while stack:
            root = stack[-1]
            if root in self._atoms:
                stack.pop()
                continue
            parts = () if root in self._reason else self._parts.get(root)
            if parts is None:
                self._atoms[root] = (root,)
            elif missing := [p for p in map(self.find, parts) if p not in self._atoms]:
                stack.extend(missing)
            else:
                self._atoms[root] = tuple(sorted({a for p in parts for a in self._atoms[self.find(p)]}))
        return self._atoms[self.find(token)]

    def roots(self, labels: Labels) -> Labels:
        """Representatives of the classes of labels. Valid after ``settle``."""
        if self._roots is None:
            parent = np.asarray(self._parent, np.int64)
            while ((grand := parent[parent]) != parent).any():
                parent = grand
            self._roots = parent
        found: Labels = self._roots[labels]
        return found

    def reason(self, token: int) -> str | None:
        """Why the token can't be removed, None when it can."""
        return self._reason.get(self.find(token))

    # -- inside -------------------------------------------------------------------------------------------------
    def _union(self, a: int, b: int) -> None:
        stack = [(a, b)]
        while stack:
            x, y = stack.pop()
            x, y = self.find(x), self.find(y)
            if x == y:
                continue
            if x > y:
                x, y = y, x
            self._parent[y] = x
            other, mine = self._parts.pop(y, None), self._parts.get(x)
            reason = self._reason.pop(y, None)
            if reason is not None and x not in self._reason:
                self._reason[x] = reason
                if mine is not None:  # false means that every part is false
                    stack.extend((x, p) for p in self._parts.pop(x))
                    mine = None
            if other is None:
                continue
            if x in self._reason:
                stack.extend((x, p) for p in other)
            elif mine is None:
                self._parts[x] = other
            elif len(mine) == len(other):
                stack.extend(zip(mine, other))
            else:  # two decompositions of the same axis that don't match: only all or nothing satisfies both
                del self._parts[x]
                stack.extend((x, p) for p in (*mine, *other))

    def _define(self, root: int, parts: tuple[int, ...]) -> None:
        if root in self._reason:
            for part in parts:
                self._freeze(part, self._reason[root])
            return
        mine = self._parts.get(root)
        if mine is None:
            self._parts[root] = parts
        elif len(mine) == len(parts):
            for x, y in zip(mine, parts):
                self._union(x, y)
        else:
            del self._parts[root]
            for part in (*mine, *parts):
                self._union(root, part)

    def _freeze(self, token: int, reason: str) -> None:
        stack = [token]
        while stack:
            root = self.find(stack.pop())
            if root not in self._reason:
                self._reason[root] = reason
                stack.extend(self._parts.pop(root, ()))

    def _collapse(self, root: int) -> None:
        for part in self._parts.pop(root, ()):
            self._union(root, part)

    def _in_circles(self) -> list[int]:
        """Roots that are parts of themselves, one of each circle at least."""
        found: dict[int, None] = {}
        open_: set[int] = set()
        done: set[int] = set()
        for start in self._parts:
            stack = [start]
            while stack:
                root = stack[-1]
                if root in done or root not in self._parts:
                    stack.pop()
                elif root in open_:
                    open_.discard(root)
                    done.add(root)
                    stack.pop()
                else:
                    open_.add(root)
                    for part in map(self.find, self._parts[root]):
                        if part in open_:
                            found[part] = None
                        elif part not in done:
                            stack.append(part)
        return list(found)

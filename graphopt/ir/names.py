"""Names that are unique in a model."""

from __future__ import annotations

from collections.abc import Iterable


class Names:
    """Taken names, and new ones derived from a wish."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """``hint`` if it is free, else ``hint_1``, ``hint_2``, ...; taken from now on."""
        name = hint
        if name in self._taken:
            n = self._next.get(hint, 1)
            while (name := f"{hint}_{n}") in self._taken:
                n += 1
            self._next[hint] = n + 1
        self._taken.add(name)
        return name

    def copy(self) -> Names:
        """The same names, to go on from apart."""
        out = Names(self._taken)
        out._next = dict(self._next)
        return out

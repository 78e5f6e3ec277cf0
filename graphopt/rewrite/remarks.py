"""Remarks: what a pass did, and above all why it did not do what one might expect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """One observation.

    Attributes:
        pass_name: the pass that ran.
        rule: the rule within it, or "".
        node: the node concerned as ``name (Op)``.
        text: the reason, or what was done.
        applied: whether the transformation happened.
    """

    pass_name: str
    rule: str
    node: str
    text: str
    applied: bool = False

    def __str__(self) -> str:
        where = f"{self.pass_name}/{self.rule}" if self.rule else self.pass_name
        return f"{where}: {'applied to' if self.applied else 'not applied to'} {self.node}: {self.text}"


class Remarks:
    """A set of remarks in order of arrival; a repeated remark is kept once.

    Args:
        listener: called with each new remark, for streaming them to a log.
    """

    def __init__(self, listener: Callable[[Remark], None] | None = None) -> None:
        self._seen: dict[Remark, None] = {}
        self._listener = listener

    def add(self, remark: Remark) -> None:
        """Record a remark."""
        if remark not in self._seen:
            self._seen[remark] = None
            if self._listener is not None:
                self._listener(remark)

    def refusals(self, rule: str | None = None) -> list[Remark]:
        """Remarks on what was not done, of one rule or all."""
        return [r for r in self._seen if not r.applied and rule in (None, r.rule)]

    def __iter__(self) -> Iterator[Remark]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)

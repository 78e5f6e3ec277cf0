"""What the simulator finds wrong with a kernel."""

from __future__ import annotations

from typing import Any

SCHEDULES = (0, 1, 2)
"""The orders of threads that results are compared over: as they come, reversed, shuffled by the number."""


class Finding(Exception):
    """Something is wrong with a kernel.

    Attributes:
        kind: ``race``, ``bounds``, ``misaligned``, ``uninitialised``, ``not-arrived``, ``divergence``, ``left-early``, ``mask``,
            ``launch``, ``trap``, ``endless`` or ``schedule`` (results that depend on the order of threads).
        text: kernel, block, thread and place.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return Finding, (self.kind, self.text)

"""The answer to whether code for a target runs on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runnable:
    """True or false in a condition, with the reason for a no."""

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok

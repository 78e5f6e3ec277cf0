"""What users say of a symbolic dimension: between what it lies, and which extent is likely."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.errors import UserError

_TEXT = re.compile(r"(?:(?P<name>[A-Za-z_][\w.]*):?)?(?:(?P<low>\d+)?\.\.(?P<high>\d+)?)?(?:@(?P<likely>\d+))?")
MOST = 1 << 40
"""Largest extent that can be declared: nothing that has as many elements fits into memory."""


@dataclass(frozen=True)
class Range:
    """A dimension whose extent is only known when a compiled model runs.

    Sizes outside are refused when the model runs; kernels are chosen for ``likely``.

    Attributes:
        low: least extent; 1 by default.
        high: largest extent, None for any.
        likely: the extent to expect.
        name: what to call the dimension; by default what the model calls it.

    Raises:
        UserError: bounds that exclude one another, a likely extent outside of them, or an extent that can't be.
    """

    low: int | None = None
    high: int | None = None
    likely: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for what in ("low", "high", "likely"):
            number = getattr(self, what)
            if number is not None and (
                isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MOST
            ):
                raise UserError(f"{number!r} is no extent of a dimension", code="bad-shape", hint=_HINT)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError(
                f"no extent is in the range {self}: {self.low} is more than {self.high}", code="bad-shape", hint=_HINT
            )
        if self.likely is not None and not (
            self.least <= self.likely and (self.high is None or self.likely <= self.high)
        ):
            raise UserError(
                f"the likely extent {self.likely} is outside of the range {self.least}..{'' if self.high is None else self.high}",
                code="bad-shape", hint="give a likely extent that the range allows, or another range",
            )  # fmt: skip

    @property
    def least(self) -> int:
        """The least extent: 1 where none is given, as models are hardly ever meant for empty tensors."""
        return 1 if self.low is None else self.low

    @property
    def is_bounded(self) -> bool:
        """Whether it says between what the extent lies."""
        return self.low is not None or self.high is not None

    def __str__(self) -> str:
        """As on the command line: ``sequence:1..512@128``."""
        bounds = f"{'' if self.low is None else self.low}..{'' if self.high is None else self.high}"
        parts = [self.name or "", bounds if self.is_bounded else ""]
        return ":".join(filter(None, parts)) + ("" if self.likely is None else f"@{self.likely}")


_HINT = "write a range as 1..512, 1.., ..512 or 1..512@128 (128 is likely), with a name as sequence:1..512"


def parse_range(text: str) -> Range | None:
    """``"1..512"``, ``"1..512@128"``, ``"n@8"``, ``"n:1..8"`` as a range; None for a text that is none.

    Raises:
        UserError: it is one, but a wrong one.
    """
    if ".." not in text and "@" not in text and ":" not in text:
        return None
    match = _TEXT.fullmatch(text)
    if match is None or text.endswith((":", "@")) or text == "..":
        raise UserError(f"{text!r} is no range of extents", code="bad-shape", hint=_HINT)
    low, high, likely = (None if match[g] is None else int(match[g]) for g in ("low", "high", "likely"))
    return Range(low, high, likely, match["name"])

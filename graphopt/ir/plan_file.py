"""Files that plans are kept in: JSON that people edit, so that whatever is wrong with it is said in their terms.

There are three kinds, and all begin with the line ``format``. They are told apart here, because one may be given where
another one is wanted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import UserError, did_you_mean
from graphopt.whole_files import whole_files


@dataclass(frozen=True)
class PlanKind:
    """What a plan decides.

    Attributes:
        format: the first line of its files.
        decides: what it is a plan of, in one word.
        given_to: which options take it.
        written_by: the command that writes it.
    """

    format: str
    decides: str
    given_to: str
    written_by: str

    def refused(self, message: str, hint: str | None = None) -> UserError:
        """The error for a file that holds no such plan."""
        return UserError(message, code="bad-plan", hint=hint or f"write a new one with {self.written_by}")

    def mistaken(self, wanted: PlanKind, source: str = "the plan") -> UserError:
        """The error for a plan of this kind that was given where one of another kind is wanted."""
        return UserError(
            f"{source} is a plan of {self.decides}, where one of {wanted.decides} is wanted", code="bad-plan",
            hint=f"give it to {self.given_to}; {wanted.written_by} writes plans of {wanted.decides}",
        )  # fmt: skip

    def read(self, path: str | os.PathLike[str]) -> str:
        """The text of a file.

        Raises:
            UserError: it can't be read.
        """
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as e:  # ValueError: no UTF-8, or a name that no file has
            raise self.refused(f"the plan {path} can't be read: {e}") from e

    def fields(self, text: str, source: str, known: Mapping[str, type]) -> dict[str, Any]:
        """The fields of a plan in a text; which of them are there is for the caller to judge.

        Args:
            text: of a file, or what ``plan_text`` made.
            source: what it is called in messages.
            known: the type of every field that a plan of this kind may have.

        Raises:
            UserError: it is no JSON, a plan of another kind or none at all, or has fields that are unknown or of a wrong type.
        """
        try:
            data = json.loads(text, object_pairs_hook=_distinct)
        except (ValueError, RecursionError) as e:
            raise self.refused(f"{source} is no JSON: {e}") from e
        format_ = data.get("format") if isinstance(data, dict) else None
        for kind in (KERNEL_PLANS, PRECISION_PLANS, RANGE_TABLES):
            if kind is not self and format_ == kind.format:
                raise kind.mistaken(self, source)
        if format_ != self.format:
            raise self.refused(f"{source} is no plan of the format {self.format}")
        for name, value in data.items():
            if name not in known:
                raise self.refused(
                    f"{source}: a plan has no {name!r}; it has {', '.join(known)}", did_you_mean(name, known)
                )
            if type(value) is not known[name]:
                raise self.refused(f"{source}: {name!r} is no {known[name].__name__}")
        return dict(data)


KERNEL_PLANS = PlanKind(
    "graphopt-plan-1", "kernels", "--plan of graphopt compile, check and bench (plan= of graphopt.compile)",
    "graphopt compile --write-plan",
)  # fmt: skip
PRECISION_PLANS = PlanKind(
    "graphopt-precision-1", "precisions",
    "--plan of graphopt convert (plan= of graphopt.convert) or --precision of graphopt compile, check and bench "
    "(precision= of graphopt.compile)",
    "graphopt convert --write-plan",
)  # fmt: skip

RANGE_TABLES = PlanKind(
    "graphopt-ranges-1", "ranges", "--table of graphopt quantize (table= of graphopt.quantize)",
    "graphopt quantize --write-table",
)  # fmt: skip


def plan_text(head: Mapping[str, Any], title: str, entries: Mapping[str, str]) -> str:
    """A plan as JSON with a line for every field of the head.

    Args:
        head: its fields.
        title: what the entries are.
        entries: by name, as JSON that may have lines of its own.
    """
    lines = [f"  {json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items()]
    rows = ",\n".join(f"    {json.dumps(name)}: {entry}" for name, entry in entries.items())
    return "{\n" + "".join(lines) + f"  {json.dumps(title)}: {{\n{rows}\n  }}\n}}\n"


def write_plan(path: str | os.PathLike[str], text: str) -> None:
    """Write a plan, complete or not at all.

    Raises:
        UserError: the file can't be written.
    """
    try:
        with whole_files(Path(path).parent, [Path(path).name]) as folder:
            (folder / Path(path).name).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as e:
        raise UserError(
            f"can't write the plan {path}: {getattr(e, 'strerror', None) or e}", code="cannot-write",
            hint="check that the folder is there, is writable and has room",
        ) from e  # fmt: skip


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found

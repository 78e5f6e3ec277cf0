"""Where the command line writes: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from graphopt.errors import GraphOptError

_WIDEST = 1000
"""Characters of a line of a table that goes to a file."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def working(message: str) -> Iterator[None]:
    """A spinner on stderr while something that may take over a second is done; nothing when stderr is no terminal."""
    with err.status(Text(message)):
        yield


@contextmanager
def going_through(message: str) -> Iterator[Callable[[int, float | None], None]]:
    """A bar on stderr for work that begins with going through data; yields what is told of every piece.

    The bar has no end where nobody knows how much data there is.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[seen]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(message, total=None, seen="")

        def told(pieces: int, part: float | None) -> None:
            progress.update(task, total=None if part is None else 1.0, completed=part or 0.0, seen=f"{pieces:,} feeds")

        yield told


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False, default=str) + "\n")


def print_error(error: GraphOptError) -> None:
    """An error in colour on stderr."""
    err.print(Text.assemble(("error", "bold red"), f" [{error.code}]: ", (error.message, "bold")))
    if error.node:
        err.print(Text(f"  node: {error.node}"))
    for note in error.notes:
        err.print(Text(f"  note: {note}"))
    if error.hint:
        err.print(Text.assemble(("  hint: ", "green"), error.hint))


def make_table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table; columns named in ``right`` are aligned to the right."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """A table on stdout: as wide as it needs where that is no terminal, folded to the terminal's width otherwise."""
    if out.is_terminal:
        out.print(table)
        return
    width = out.width
    try:
        out.width = _WIDEST
        out.width = max(width, out.measure(table).maximum)
        out.print(table)
    finally:
        out.width = width


def plain(text: str) -> Text:
    """Text in which brackets are not markup."""
    return Text(text)


def finite(value: float | None) -> float | None:
    """A number that JSON can hold: None instead of infinity or NaN."""
    return value if value is not None and math.isfinite(value) else None

"""``graphopt cache``: the compiled kernels on disk."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import console
from graphopt.cli.options import JsonOpt
from graphopt.errors import UserError


def cache_verb(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all compiled kernels.")] = False,
    json: JsonOpt = False,
) -> None:
    """Show where compiled kernels are kept and how much room they take."""
    from graphopt.backends.build.object_cache import VARIABLE, default_cache

    cache = default_cache()
    if cache is None:
        if clear:
            hint = f"set {VARIABLE} to the folder to clear"
            raise UserError(f"the cache is turned off by {VARIABLE}", code="no-cache", hint=hint)
        if json:
            console.print_json({"folder": None, "entries": 0, "bytes": 0, "limit": None})
        else:
            console.out.print(f"off ({VARIABLE})")
        return
    removed = cache.clear() if clear else None
    usage = cache.usage()
    if json:
        facts = {"folder": str(cache.folder), "entries": usage.entries, "bytes": usage.size, "limit": cache.limit}
        console.print_json({**facts, "notes": cache.notes} | ({"removed": removed.entries} if removed else {}))
        return
    for note in cache.notes:
        console.err.print(f"note: {note}", markup=False)
    if removed is not None:
        console.out.print(f"removed {removed.entries} kernels, {removed.size / 1e6:.1f} MB")
    console.out.print(
        f"{cache.folder}: {usage.entries} kernels, {usage.size / 1e6:.1f} MB of at most {cache.limit / 1e6:.0f} MB",
        markup=False,
    )

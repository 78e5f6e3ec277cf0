"""``graphopt targets``: what can be compiled for, and what of it runs here."""

from __future__ import annotations

from graphopt.cli import console
from graphopt.cli.options import JsonOpt


def targets_verb(json: JsonOpt = False) -> None:
    """List the named targets; any LLVM processor name works too (x86:znver3, arm:cortex-a55)."""
    with console.working("looking at this machine"):
        from graphopt.backends.targets.runnable import list_targets

        found = list_targets()
    if json:
        console.print_json(
            {
                "targets": [
                    {
                        "name": t.name,
                        "description": t.description,
                        "runs_here": t.runnable.ok,
                        "reason": t.runnable.reason or None,
                    }
                    for t in found
                ]
            }
        )
        return
    table = console.make_table("Targets", "name", "what", "runs here")
    for t in found:
        table.add_row(t.name, t.description, "yes" if t.runnable else f"no: {t.runnable.reason}")
    console.out.print(table)

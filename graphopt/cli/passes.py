"""``graphopt passes``: the passes, their options, and which run at which level."""

from __future__ import annotations

from dataclasses import asdict

from graphopt.cli import console
from graphopt.cli.options import JsonOpt


def passes_verb(json: JsonOpt = False) -> None:
    """List every pass with its options and the levels that run it."""
    with console.working("loading passes"):
        from graphopt.ir.levels import LEVELS
        from graphopt.passes.catalogue import list_passes
        from graphopt.passes.pipelines import kernel_phases, level_pipeline
    used = {level: set(level_pipeline(level).pass_names) for level in LEVELS}
    compiling = {p.name for phase in kernel_phases(max(LEVELS)) for p in phase.passes}
    found = list_passes()
    levels = {p.name: [level for level, names in used.items() if p.name in names] for p in found}
    if json:
        console.print_json(
            {
                "passes": [{**asdict(p), "levels": levels[p.name], "for_kernels": p.name in compiling} for p in found],
                "levels": {str(level): text for level, text in LEVELS.items()},
            }
        )
        return
    table = console.make_table("Passes", "name", "levels", "what", "options")
    for p in found:
        options = ", ".join(f"{o.name}={o.default}" for o in p.options)
        where = ",".join([*map(str, levels[p.name]), *(["compile"] if p.name in compiling else [])]) or "-"
        table.add_row(p.name, where, console.plain(p.description), console.plain(options))
    console.out.print(table)
    for level, text in LEVELS.items():
        console.out.print(f"  -O{level}  {text}", markup=False)

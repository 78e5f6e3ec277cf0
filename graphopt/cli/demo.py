"""``graphopt demo``: the main job on models that come with the installation."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import console
from graphopt.cli.options import JsonOpt, ThreadsOpt


def demo_verb(
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the comparison with TVM's default pipeline.")
    ] = False,
    threads: ThreadsOpt = None,
    json: JsonOpt = False,
) -> None:
    """Compile, verify and time a trained digit classifier and ResNet-50; needs no network."""
    with console.working("loading the compiler"):
        from graphopt.cli.demo_run import run_demo
    report = run_demo(threads, with_tvm=not quick, working=console.working)
    if json:
        console.print_json(report.to_dict())
    else:
        table = console.make_table(f"graphopt demo on {report.target}, {report.threads} threads", "step", "result")
        for step, result in report.rows():
            table.add_row(step, console.plain(result))
        console.out.print(table)
    error = report.error()
    if error is not None and not json:
        raise error
    if error is not None:
        raise typer.Exit(error.exit_code)

"""``graphopt check``: is the compiled model right?"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from graphopt.cli import console
from graphopt.cli.arrays import input_paths, load_arrays
from graphopt.cli.options import (
    ExactOpt,
    InputOpt,
    JsonOpt,
    LevelOpt,
    ModelArg,
    PassOpt,
    PlanOpt,
    PrecisionOpt,
    SeedOpt,
    ShapeOpt,
    SkipOpt,
    StrictOpt,
    TargetOpt,
    ThreadsOpt,
    ValueOpt,
    VerifyOpt,
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.ir.levels import DEFAULT_LEVEL


def check_verb(
    model: ModelArg,
    target: TargetOpt = "native",
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    input: InputOpt = None,
    seed: SeedOpt = 0,
    reference: Annotated[
        Literal["onnxruntime", "onnx"] | None,
        typer.Option("--reference", help="What to compare with; by default the first that works.", show_default=False),
    ] = None,
    level: LevelOpt = DEFAULT_LEVEL,
    exact: ExactOpt = False,
    passes: PassOpt = None,
    skip_pass: SkipOpt = None,
    threads: ThreadsOpt = None,
    verify_each: VerifyOpt = False,
    plan: PlanOpt = None,
    precision: PrecisionOpt = None,
    json: JsonOpt = False,
) -> None:
    """Compile MODEL, run it on random or given inputs, compare every output with a reference implementation."""
    feed = load_arrays(input_paths(input))
    with console.working(f"checking {model.name}"):
        from graphopt.driver.checking import Options, check_model

        options = Options(target, threads, level, passes or None, skip_pass or (), verify_each, exact, plan, precision)
        report = check_model(
            model, options, shapes=shapes_of(shape), values=values_of(value), strict=strict, feed=feed, seed=seed,
            reference=reference,
        )  # fmt: skip
    error = report.error()
    rows = [*((c.name, "output", c) for c in report.outputs)]
    if error is not None:
        rows = [*((layer.comparison.name, layer.node, layer.comparison) for layer in report.layers), *rows]
    if json:
        console.print_json(
            {
                "ok": report.ok,
                "reference": report.reference,
                "seed": seed,
                "values": [
                    {
                        "name": name,
                        "node": node,
                        "ok": c.ok,
                        "error": console.finite(c.error),
                        "allowed": c.allowed,
                        "problem": c.problem,
                    }
                    for name, node, c in rows
                ],
                "error": error.to_dict() if error else None,
            }
        )
        if error is not None:
            raise typer.Exit(error.exit_code)
        return
    title = f"{model.name} against {report.reference}, seed {seed}"
    table = console.make_table(title, "value", "made by", "error", "allowed", "", right=("error", "allowed"))
    for name, node, c in rows:
        verdict = "[green]ok[/]" if c.ok else "[red]differs[/]"
        table.add_row(console.plain(name), console.plain(node), f"{c.error:.2e}", f"{c.allowed:.2e}", verdict)
    console.out.print(table)
    if error is not None:
        raise error

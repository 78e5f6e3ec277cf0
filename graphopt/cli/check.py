"""``graphopt check``: is the compiled model right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphopt.cli import console
from graphopt.cli.arrays import input_paths, load_arrays
from graphopt.cli.check_tables import show_quantized, ties_note
from graphopt.cli.options import (
    DataOpt,
    ExactOpt,
    InputOpt,
    JsonOpt,
    LevelOpt,
    ModelArg,
    PassOpt,
    PlanOpt,
    QuantizedPrecisionOpt,
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
from graphopt.errors import UserError
from graphopt.ir.levels import DEFAULT_LEVEL

if TYPE_CHECKING:
    from graphopt.driver.checking import CheckReport


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
    float_model: Annotated[
        Path | None,
        typer.Option(
            "--float",
            metavar="MODEL",
            help="The float model that MODEL was quantized from: compare layer by layer.",
            show_default=False,
        ),
    ] = None,
    level: LevelOpt = DEFAULT_LEVEL,
    exact: ExactOpt = False,
    passes: PassOpt = None,
    skip_pass: SkipOpt = None,
    threads: ThreadsOpt = None,
    verify_each: VerifyOpt = False,
    plan: PlanOpt = None,
    precision: QuantizedPrecisionOpt = None,
    calib: DataOpt = None,
    json: JsonOpt = False,
) -> None:
    """Compile MODEL, run it on random or given inputs, compare every output with a reference implementation."""
    feed = load_arrays(input_paths(input))
    with console.working(f"checking {model.name}"):
        from graphopt.driver.calibration_source import named_source
        from graphopt.driver.checking import Options, check_model
        from graphopt.driver.quantized_check.against_float import check_quantized
        from graphopt.driver.quantized_check.quantized_here import quantized_here

        here = quantized_here(
            model, precision, None if calib is None else named_source(calib), level=level, shapes=shapes_of(shape),
            values=values_of(value), strict=strict, threads=threads,
        )  # fmt: skip
        if here is not None and float_model is not None:
            raise UserError(
                "--precision int8 quantizes the float model, and --float is for one that is quantized", code="bad-option",
                hint="leave one of them out",
            )  # fmt: skip
        options = Options(
            target,
            threads,
            level,
            passes or None,
            skip_pass or (),
            verify_each,
            exact,
            plan,
            None if here else precision,
        )
        quantized, original = (here.model, model) if here is not None else (model, float_model)
        if original is not None:
            held = check_quantized(
                quantized, original, options, shapes=shapes_of(shape), values=values_of(value), strict=strict,
                feed=feed or (here.feed if here is not None else {}), seed=seed, reference=reference,
            )  # fmt: skip
            show_quantized(model.name, held, json)
            return
        report = check_model(
            model, options, shapes=shapes_of(shape), values=values_of(value), strict=strict, feed=feed, seed=seed,
            reference=reference,
        )  # fmt: skip
    show(model.name, report, json)


def show(name: str, report: CheckReport, json: bool) -> None:
    """Print what was found.

    Raises:
        AccuracyError: something differs.
    """
    error = report.error()
    rows = [*((c.name, "output", c) for c in report.outputs)]
    if error is not None:
        rows = [*((layer.comparison.name, layer.node, layer.comparison) for layer in report.layers), *rows]
    if json:
        console.print_json(
            {
                "ok": report.ok,
                "reference": report.reference,
                "seed": report.seed,
                "ties": report.ties,
                "values": [
                    {
                        "name": value,
                        "node": node,
                        "ok": c.ok,
                        "error": console.finite(c.error),
                        "allowed": c.allowed,
                        "problem": c.problem,
                    }
                    for value, node, c in rows
                ],
                "error": error.to_dict() if error else None,
            }
        )
        if error is not None:
            raise typer.Exit(error.exit_code)
        return
    title = f"{name} against {report.reference}, seed {report.seed}"
    table = console.make_table(title, "value", "made by", "error", "allowed", "", right=("error", "allowed"))
    for value, node, c in rows:
        verdict = "[green]ok[/]" if c.ok else "[red]differs[/]"
        table.add_row(console.plain(value), console.plain(node), f"{c.error:.2e}", f"{c.allowed:.2e}", verdict)
    console.out.print(table)
    if report.ties:
        console.err.print(f"note: {ties_note(report.ties)}", markup=False)
    if error is not None:
        raise error

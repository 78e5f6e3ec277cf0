"""``graphopt convert``: a float32 ONNX model as one in 16 bits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from graphopt.cli import console
from graphopt.cli.options import (
    CalibOpt,
    JsonOpt,
    ModelArg,
    PlannedLevelOpt,
    SeedOpt,
    ShapeOpt,
    StrictOpt,
    ThreadsOpt,
    ValueOpt,
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.cli.written_model import check_written, write_report


def convert_verb(
    model: ModelArg,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="File to write.")],
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="fp16|bf16",
            help="What to compute and store in; a plan says it too.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Convert what this plan has in 16 bits (--write-plan), without data and without a search.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep", metavar="NAME|OP", help="Node or operator that stays in float32; * and ? allowed. Repeatable."
        ),
    ] = None,
    io: Annotated[
        Literal["keep", "cast"] | None,
        typer.Option(
            "--io",
            help="Whether inputs and outputs keep float32 or are cast too; by default as the plan says, else keep.",
            show_default=False,
        ),
    ] = None,
    calib: CalibOpt = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="E",
            help="Largest relative L2 error of any output; sensitive nodes go back to float32 until it holds.",
            show_default=False,
        ),
    ] = None,
    level: PlannedLevelOpt = None,
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    threads: ThreadsOpt = None,
    seed: SeedOpt = 0,
    write_plan: Annotated[
        Path | None,
        typer.Option("--write-plan", metavar="FILE", help="Also write what each node computes in.", show_default=False),
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.json", help="Also write the report.", show_default=False)
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Turn MODEL into one that stores and computes in 16 bits, and write plain ONNX."""
    inputs = [model] if plan is None else [model, plan]
    check_written(output, *inputs, more={"--report": report_file, "--write-plan": write_plan})
    with console.working("loading the compiler"):
        from graphopt.driver.optimizing import export_onnx
        from graphopt.driver.precision.converting import convert
    start = time.perf_counter()
    with console.working(f"converting {model.name}"):
        graph, report = convert(
            model, precision, plan=plan, keep=keep or (), io=io, calibration=calib, max_error=max_error, level=level,
            shapes=shapes_of(shape), values=values_of(value), strict=strict, threads=threads, seed=seed,
        )  # fmt: skip
        export_onnx(graph, output)
        if write_plan is not None:
            report.plan.save(write_plan)
    facts = {
        "output": str(output),
        "file_bytes": output.stat().st_size,
        "seconds": round(time.perf_counter() - start, 3),
        **report.to_dict(),
    }
    if report_file is not None:
        write_report(report_file, facts)
    if json:
        console.print_json(facts)
        return
    from graphopt.cli.precision_tables import nodes_table, outputs_table, totals_table

    console.print_table(nodes_table(report))
    if report.outputs:
        console.print_table(outputs_table(report.data, report.outputs))
    console.print_table(totals_table(f"{model.name} -> {output}", report))
    for note in report.notes:
        console.err.print(f"note: {note}", markup=False)

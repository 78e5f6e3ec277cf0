"""``graphopt prune``: a smaller ONNX model without the channels that matter least."""

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
    NoReconstructOpt,
    SeedOpt,
    ShapeOpt,
    StrictOpt,
    TargetOpt,
    ThreadsOpt,
    ValueOpt,
    pairs,
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.cli.written_model import check_written, write_report
from graphopt.errors import UserError


def prune_verb(
    model: ModelArg,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="File to write.")],
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", metavar="0..1", help="Part of the channels to remove.", show_default=False),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="WHAT=AMOUNT",
            help="Instead of a ratio, what may be left: params=0.5x, flops=2G, bytes=4MB, latency=0.6x, latency=3ms.",
            show_default=False,
        ),
    ] = None,
    criterion: Annotated[
        str,
        typer.Option("--criterion", metavar="NAME", help="What tells important channels; see docs/guides/pruning.md."),
    ] = "l2",
    ranking: Annotated[
        Literal["local", "global", "isomorphic"],
        typer.Option("--ranking", metavar="NAME", help="Take the ratio local to groups, global, or isomorphic."),
    ] = "local",
    calib: CalibOpt = None,
    no_reconstruct: NoReconstructOpt = False,
    layer_ratio: Annotated[
        list[str] | None,
        typer.Option(
            "--layer-ratio", metavar="NAME=RATIO", help="Another ratio for a layer; * and ? allowed. Repeatable."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="NAME", help="Layer that keeps its channels; * and ? allowed. Repeatable."),
    ] = None,
    multiple: Annotated[
        int | None,
        typer.Option(
            "--multiple", metavar="N", min=1, help="Leave multiples of N channels; by default what suits the target."
        ),
    ] = None,
    target: TargetOpt = "native",
    threads: ThreadsOpt = None,
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    seed: SeedOpt = 0,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Leave out the proof against the original with channels set to zero.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Compile both models and measure their latency, not only predict it.")
    ] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.json", help="Also write the report.", show_default=False)
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Remove channels of MODEL all over the graph, prove that the rest is right, and write plain ONNX."""
    check_written(output, model, more={"--report": report_file})
    ratios = layer_ratios(layer_ratio)
    with console.working("loading the compiler"):
        from graphopt.driver.optimizing import export_onnx
        from graphopt.driver.pruning import prune
    start = time.perf_counter()
    with console.working(f"pruning {model.name}"):
        graph, report = prune(
            model, ratio=ratio, budget=budget, criterion=criterion, ranking=ranking, calibration=calib,
            reconstruct=False if no_reconstruct else None, ratios=ratios, exclude=exclude or (), multiple=multiple,
            target=target, threads=threads, shapes=shapes_of(shape), values=values_of(value), strict=strict,
            seed=seed, verify=not no_verify, measure=measure,
        )  # fmt: skip
        export_onnx(graph, output)
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
    else:
        from graphopt.cli.prune_groups import print_frozen
        from graphopt.cli.prune_tables import groups_table, outputs_table, totals_table

        console.print_table(groups_table(report))
        print_frozen(report.frozen)
        console.print_table(outputs_table(report))
        console.print_table(totals_table(f"{model.name} -> {output}", report))
        for note in report.notes:
            console.err.print(f"note: {note}", markup=False)


def layer_ratios(items: list[str] | None) -> dict[str, float]:
    """What ``--layer-ratio`` gave.

    Raises:
        UserError: no number.
    """
    found = {}
    for name, text in pairs("--layer-ratio", items, "conv1=0.3").items():
        try:
            found[name] = float(text)
        except ValueError:
            raise UserError(
                f"--layer-ratio {name}={text}: {text!r} is no number", code="bad-option",
                hint="write a part of the channels such as 0.3",
            ) from None  # fmt: skip
    return found

"""``graphopt prune``: a smaller ONNX model without the channels that matter least."""

from __future__ import annotations

import json as json_text
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphopt.cli import console
from graphopt.cli.options import (
    JsonOpt,
    ModelArg,
    SeedOpt,
    ShapeOpt,
    TargetOpt,
    ThreadsOpt,
    check_output,
    pairs,
    shapes_of,
)
from graphopt.errors import UserError

if TYPE_CHECKING:
    from graphopt.driver.prune_report import Change, PruneReport


def prune_verb(
    model: ModelArg,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="File to write.")],
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", metavar="0..1", help="Part of the channels to remove.", show_default=False),
    ] = None,
    criterion: Annotated[
        str,
        typer.Option("--criterion", metavar="NAME", help="What tells important channels; see docs/guides/pruning.md."),
    ] = "l2",
    ranking: Annotated[
        Literal["local", "global", "isomorphic"],
        typer.Option("--ranking", metavar="NAME", help="Take the ratio local to groups, global, or isomorphic."),
    ] = "local",
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
    seed: SeedOpt = 0,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Leave out the proof against the original with channels set to zero.")
    ] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.json", help="Also write the report.", show_default=False)
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Remove channels of MODEL all over the graph, prove that the rest is right, and write plain ONNX."""
    if output.suffix != ".onnx":
        raise UserError(f"{output} is no .onnx file", code="bad-output", hint=f"write to {output.with_suffix('.onnx')}")
    check_output(output, model)
    if report_file is not None:
        check_output(report_file, model)
        if report_file.resolve() == output.resolve():
            raise UserError(
                "--report and -o name the same file", code="bad-output", hint="give the report another name"
            )
    ratios = layer_ratios(layer_ratio)
    with console.working("loading the compiler"):
        from graphopt.driver.optimizing import export_onnx
        from graphopt.driver.pruning import prune
    start = time.perf_counter()
    with console.working(f"pruning {model.name}"):
        graph, report = prune(
            model, ratio=ratio, criterion=criterion, ranking=ranking, ratios=ratios, exclude=exclude or (),
            multiple=multiple, target=target, threads=threads, shapes=shapes_of(shape), seed=seed, verify=not no_verify,
        )  # fmt: skip
        export_onnx(graph, output)
    facts = {
        "output": str(output),
        "file_bytes": output.stat().st_size,
        "seconds": round(time.perf_counter() - start, 3),
        **report.to_dict(),
    }
    if report_file is not None:
        _write(report_file, json_text.dumps(facts, indent=2, allow_nan=False) + "\n")
    if json:
        console.print_json(facts)
    else:
        _print(report, f"{model.name} -> {output}")


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


def _write(path: Path, text: str) -> None:
    """Complete or not at all."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            part = Path(folder) / path.name
            part.write_text(text)
            os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"can't write {path}: {error.strerror or error}", code="cannot-write",
            hint="check that the folder is writable and has room",
        ) from error  # fmt: skip


def _print(report: PruneReport, title: str) -> None:
    from graphopt.cli.prune_groups import print_frozen

    table = console.make_table(
        "", "group", "channels", "left", "parameters", "left ", right=("channels", "left", "parameters", "left ")
    )
    for row in report.groups:
        if row.channels.after < row.channels.before:
            cells = [row.name, *(f"{n:,.0f}" for c in (row.channels, row.parameters) for n in (c.before, c.after))]
            table.add_row(*map(console.plain, cells))
    console.print_table(table)
    print_frozen(report.frozen)
    outputs = console.make_table("", "output", "SQNR dB", "error", "allowed", right=("SQNR dB", "error", "allowed"))
    for out in report.outputs:
        outputs.add_row(
            console.plain(out.name),
            *(_cell(v, f) for v, f in ((out.sqnr_db, ".1f"), (out.error, ".1e"), (out.allowed, ".1e"))),
        )
    console.print_table(outputs)
    summary = console.make_table(title, "", "before", "after", "left %", right=("before", "after", "left %"))
    for name, change, digits in _totals(report):
        summary.add_row(
            name, f"{change.before:,.{digits}f}", f"{change.after:,.{digits}f}", f"{100 * change.ratio:.1f}"
        )
    console.print_table(summary)
    for note in report.notes:
        console.err.print(f"note: {note}", markup=False)


def _totals(report: PruneReport) -> list[tuple[str, Change, int]]:
    found: list[tuple[str, Change | None, int]] = [
        ("parameters", report.parameters, 0),
        ("bytes of weights", report.bytes, 0),
        ("FLOPs a run", report.flops, 0),
        ("predicted ms", report.predicted_ms, 3),
        ("measured ms", report.measured_ms, 3),
    ]
    return [(name, change, digits) for name, change, digits in found if change is not None]


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"

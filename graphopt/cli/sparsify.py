"""``graphopt sparsify``: the same ONNX model with zeros in its weights, and what these save."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.cli.written_model import check_written

if TYPE_CHECKING:
    from graphopt.driver.sparsity_report import SparsityReport


def sparsify_verb(
    model: ModelArg,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="File to write.")],
    ratio: Annotated[
        float | None,
        typer.Option(
            "--ratio", metavar="0..1", help="Part of each layer's weights to set to zero.", show_default=False
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern", metavar="N:M", help="At most N of M input channels stay, such as 2:4.", show_default=False
        ),
    ] = None,
    method: Annotated[
        Literal["magnitude", "wanda"],
        typer.Option("--method", help="What tells small weights; wanda counts the inputs' size too, from --calib."),
    ] = "magnitude",
    calib: CalibOpt = None,
    no_reconstruct: NoReconstructOpt = False,
    scope: Annotated[
        Literal["layer", "global"],
        typer.Option("--scope", help="Whether the ratio holds in every layer or over all of them."),
    ] = "layer",
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="NAME", help="Layer to leave alone; * and ? allowed. Repeatable."),
    ] = None,
    depthwise: Annotated[
        bool, typer.Option("--depthwise", help="Also layers whose outputs read one input channel each.")
    ] = False,
    target: TargetOpt = "native",
    threads: ThreadsOpt = None,
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    seed: SeedOpt = 0,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Leave out sizes of compiled files, outputs and latency.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Set the weights of MODEL that matter least to zero and write plain ONNX; compiled files get smaller, not faster."""
    check_written(output, model)
    with console.working("loading the compiler"):
        from graphopt.driver.optimizing import export_onnx
        from graphopt.driver.sparsity import sparsify
    start = time.perf_counter()
    with console.working(f"working on {model.name}"):
        graph, report = sparsify(
            model, ratio=ratio, pattern=pattern or "unstructured", method=method, scope=scope, calibration=calib,
            reconstruct=False if no_reconstruct else None, exclude=exclude or (), depthwise=depthwise, target=target,
            threads=threads, shapes=shapes_of(shape), values=values_of(value), strict=strict, seed=seed,
            compiled=not no_compile,
        )  # fmt: skip
        export_onnx(graph, output)
    if json:
        facts: dict[str, Any] = {"output": str(output), "seconds": round(time.perf_counter() - start, 3)}
        console.print_json({**facts, **report.to_dict()})
    else:
        _print(report, f"{model.name} -> {output}")


def _print(report: SparsityReport, title: str) -> None:
    table = console.make_table("", "layer", "weights", "zeros", "%", "left alone", right=("weights", "zeros", "%"))
    for row in report.layers:
        part = f"{100 * row.after / max(row.elements, 1):.1f}"
        table.add_row(
            console.plain(row.layer), f"{row.elements:,}", f"{row.after:,}", part, console.plain(row.reason or "")
        )
    console.print_table(table)
    if report.reconstructed:
        console.out.print(
            f"weights of {len(report.reconstructed)} layers set anew by least squares on {report.data}", markup=False
        )
    if report.outputs:
        outputs = console.make_table("", "output", f"SQNR dB on {report.data}", right=(f"SQNR dB on {report.data}",))
        for out in report.outputs:
            outputs.add_row(console.plain(out.name), "" if out.sqnr_db is None else f"{out.sqnr_db:.1f}")
        console.print_table(outputs)
    if report.stored:
        columns = ("kernels", "constants", "compressed", "zeros %", "bytes", "in the file")
        stored = console.make_table("", *columns, right=columns[1:])
        for kind in report.stored:
            counts = (kind.constants, kind.compressed)
            stored.add_row(
                kind.template, *map(str, counts), f"{100 * kind.zeros:.1f}", f"{kind.bytes:,}", f"{kind.stored:,}"
            )
        console.print_table(stored)
    summary = console.make_table(title, "", "before", "after", "left %", right=("before", "after", "left %"))
    for name, change, digits in (
        ("zeros in layers", report.zeros, 0),
        ("bytes of the compiled file", report.artifact_bytes, 0),
        ("latency ms", report.latency_ms, 3),
    ):
        if change is not None:
            left = f"{100 * change.ratio:.1f}" if change.before and name != "zeros in layers" else ""
            summary.add_row(name, f"{change.before:,.{digits}f}", f"{change.after:,.{digits}f}", left)
    console.print_table(summary)
    for note in report.notes:
        console.err.print(f"note: {note}", markup=False)

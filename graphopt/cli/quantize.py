"""``graphopt quantize``: a float ONNX model as one in integers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from graphopt.cli import console
from graphopt.cli.options import (
    DataOpt,
    JsonOpt,
    LevelOpt,
    ModelArg,
    ShapeOpt,
    StrictOpt,
    ThreadsOpt,
    ValueOpt,
    check_folder,
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.cli.written_model import check_written, write_report
from graphopt.ir.levels import DEFAULT_LEVEL


def quantize_verb(
    model: ModelArg,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="File to write.")],
    calib: DataOpt = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="Ranges by mse, minmax, average, percentile or entropy.")
    ] = "mse",
    percentile: Annotated[
        float, typer.Option("--percentile", metavar="P", help="Part of the numbers in a range by percentile.")
    ] = 99.99,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="One scale for a weight, not one for each output channel.")
    ] = False,
    activations: Annotated[
        str | None,
        typer.Option(
            "--activations",
            metavar="u8|s8|u16|s16",
            help="How activations are stored; by default u8, or as the runtime takes them.",
            show_default=False,
        ),
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option(
            "--symmetric/--asymmetric",
            help="Whether zero is the middle of the activations' range; by default of signed ones.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        Literal["tensorrt", "onnxruntime", "openvino"] | None,
        typer.Option("--for", help="Follow the rules of this runtime.", show_default=False),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="NAME|OP", help="Quantize these only; * and ? allowed. Repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="NAME|OP", help="Leave in float; * and ? allowed. Repeatable."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", metavar="FILE", help="Ranges that --write-table wrote; they need no data.", show_default=False
        ),
    ] = None,
    no_compare: Annotated[
        bool, typer.Option("--no-compare", help="Don't run the quantized model to measure what it cost.")
    ] = False,
    evaluate: Annotated[
        str | None,
        typer.Option(
            "--evaluate",
            metavar="DIR|FILE|MODULE:FUNCTION",
            help="Compare results on these inputs, by default on the first of --calib.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="MODULE:FUNCTION",
            help="How good outputs are, as a function of outputs and feeds; higher is better.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="D",
            help="How much less than float's the metric may be; the layers that cost most go back until it holds.",
            show_default=False,
        ),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(
            "--min-sqnr", metavar="DB", help="The same for the SQNR of every output in dB.", show_default=False
        ),
    ] = None,
    fall_back: Annotated[
        Literal["float", "16"],
        typer.Option(
            "--fall-back", help="What these layers go back to: float, or data in 16 bits where that is enough."
        ),
    ] = "float",
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Measure what each layer costs by itself.")
    ] = False,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic", help="Products of matrices only, ranges measured while the model runs; without --calib."
        ),
    ] = False,
    overrides: Annotated[
        Path | None,
        typer.Option(
            "--overrides",
            metavar="FILE",
            help="Other settings for some nodes and values: JSON or TOML.",
            show_default=False,
        ),
    ] = None,
    equalize: Annotated[
        bool,
        typer.Option("--equalize", help="Scale channels between two products so that both weights have ranges alike."),
    ] = False,
    correct_bias: Annotated[
        bool,
        typer.Option("--correct-bias", help="Take the mean error of every product on the data from its bias."),
    ] = False,
    level: LevelOpt = DEFAULT_LEVEL,
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    threads: ThreadsOpt = None,
    write_table: Annotated[
        Path | None,
        typer.Option("--write-table", metavar="FILE", help="Also write the ranges of all values.", show_default=False),
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.json", help="Also write the report.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FOLDER", help="Also draw ranges and the SQNR of layers.", show_default=False),
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Turn MODEL into one that computes on 8-bit integers, and write plain ONNX (QuantizeLinear, DequantizeLinear)."""
    inputs = [model, *(Path(item) for item in (calib, evaluate, table, overrides) if item is not None)]
    check_written(output, *inputs, more={"--report": report_file, "--write-table": write_table})
    with console.working("loading the compiler"):
        from graphopt.driver.calibration_source import named_source
        from graphopt.driver.optimizing import export_onnx
        from graphopt.driver.quantize.goal import named_metric
        from graphopt.driver.quantize.quantizing import quantize
    if plot is not None:
        from graphopt.driver.figures import require_matplotlib
        from graphopt.driver.quantize.plots import write_plots

        check_folder(plot)
        require_matplotlib()
    start = time.perf_counter()
    with console.going_through(f"quantizing {model.name}") as told:
        graph, report = quantize(
            model, None if calib is None else named_source(calib), method=method, percentile=percentile,
            per_channel=not per_tensor, activations=activations, symmetric=symmetric, runtime=runtime, include=include or (),
            exclude=exclude or (), table=table, compare=not no_compare,
            evaluation=None if evaluate is None else named_source(evaluate),
            metric=None if metric is None else named_metric(metric), max_drop=max_drop, min_sqnr=min_sqnr,
            fall_back=fall_back, sensitivity=sensitivity, overrides=overrides,
            dynamic=dynamic, equalize=equalize, correct_bias=correct_bias,
            level=level, shapes=shapes_of(shape), values=values_of(value), strict=strict, threads=threads,
            progress=told,
        )  # fmt: skip
        export_onnx(graph, output)
        if write_table is not None:
            report.table.save(write_table)
        if plot is not None:
            write_plots(plot, report)
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
    from graphopt.cli.precision_tables import outputs_table
    from graphopt.cli.quantize_tables import layers_table, totals_table, values_table

    console.print_table(layers_table(report))
    if report.values:
        console.print_table(values_table(report))
    if report.outputs:
        console.print_table(outputs_table(report.data, report.outputs))
    console.print_table(totals_table(f"{model.name} -> {output}", report))
    for note in report.notes:
        console.err.print(f"note: {note}", markup=False)

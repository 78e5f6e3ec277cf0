"""How ``graphopt check`` shows a quantized model beside the float one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from graphopt.cli import console

if TYPE_CHECKING:
    from graphopt.driver.quantized_check.against_float import FloatRow, QuantizedReport


def show_quantized(name: str, report: QuantizedReport, json: bool) -> None:
    """Print a value a line: signal to noise against float, and how the integers of the compiled model differ.

    Raises:
        AccuracyError: the compiled model does something else than the reference.
    """
    error = report.error()
    if json:
        console.print_json(
            {
                "ok": report.ok,
                "reference": report.reference,
                "ties": report.check.ties,
                "random_inputs": list(report.random),
                "astray": None if report.astray is None else report.astray.value,
                "values": [_plain(row) for row in report.rows],
                "error": error.to_dict() if error else None,
            }
        )
        if error is not None:
            raise typer.Exit(error.exit_code)
        return
    right = ("SQNR dB", "compiled", "steps", "at a tie")
    table = console.make_table(
        f"{name} against float in {report.reference}", "value", "made by", *right, "", right=right
    )
    for row in report.rows:
        steps = ("", "") if row.steps is None else (str(row.steps.most), str(row.steps.ties))
        verdict = "[red]differs[/]" if row.steps is not None and row.steps.problem else ""
        if row is report.astray:
            verdict = verdict or "[yellow]far from float[/]"
        cells = (_decibels(row.reference_db), _decibels(row.compiled_db), *steps)
        table.add_row(console.plain(row.value), console.plain(row.node), *cells, verdict)
    console.print_table(table)
    if report.random:
        console.err.print(
            f"note: {', '.join(report.random)} held random numbers, and ranges are chosen for real ones; give some (--input)",
            markup=False,
        )
    if report.astray is not None:
        console.err.print(
            f"note: %{report.astray.value}, made by {report.astray.node}, is the first value that is far from float: "
            f"{_decibels(report.astray.reference_db)} dB",
            markup=False,
        )
    elif report.loss is not None:
        row, lost = report.loss
        console.err.print(f"note: most is lost behind {row.node}: {lost:.1f} dB", markup=False)
    if report.check.ties:
        console.err.print(f"note: {ties_note(report.check.ties)}", markup=False)
    if error is not None:
        raise error


def ties_note(ties: int) -> str:
    """What integers at ties are, in words."""
    return f"{ties} integers are one step off where the float lies between two of them, within its rounding error"


def _plain(row: FloatRow) -> dict[str, object]:
    return {
        "name": row.value,
        "node": row.node,
        "sqnr_db": console.finite(row.reference_db),
        "compiled_sqnr_db": console.finite(row.compiled_db),
        "steps": None if row.steps is None else row.steps.most,
        "ties": None if row.steps is None else row.steps.ties,
        "wrong": None if row.steps is None else row.steps.wrong,
    }


def _decibels(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if math.isfinite(value) else str(value)

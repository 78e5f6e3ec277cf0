"""How ``graphopt quantize`` shows what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from graphopt.cli import console

if TYPE_CHECKING:
    from graphopt.driver.quantize.report import QuantizationReport


def layers_table(report: QuantizationReport) -> Table:
    """One line a node: how it is stored or why not, with the SQNR behind it where there was data, and what it costs by itself
    where somebody had to know."""
    noise = {
        "SQNR dB": [_cell(row.sqnr_db) for row in report.layers],
        "alone dB": [f"{'>' if row.alone_with else ''}{_cell(row.alone_db)}" for row in report.layers],
    }
    shown = {title: cells for title, cells in noise.items() if any(cells)}
    table = console.make_table("", "node", "operator", "stored as", *shown, "kept because of", "", right=tuple(shown))
    for i, row in enumerate(report.layers):
        cells = [row.op, row.stored, *(column[i] for column in shown.values()), row.why]
        style = "bold" if row.why else None
        table.add_row(console.plain(row.node), *cells, console.plain(row.reason), style=style)
    return table


def values_table(report: QuantizationReport) -> Table:
    """One line a value in integers: its range and what that gives."""
    right = ("from", "to", "scale", "zero point", "sharing it")
    table = console.make_table(f"Values, {report.activations}, by {report.method}", "value", *right, right=right)
    for row in report.values:
        numbers = (f"{row.low:.4g}", f"{row.high:.4g}", f"{row.scale:.4g}", str(row.zero_point), str(row.shared))
        table.add_row(console.plain(row.name), *numbers)
    return table


def totals_table(title: str, report: QuantizationReport) -> Table:
    """What the model takes before and after."""
    table = console.make_table(title, "", "int8", right=("int8",))
    rows = {
        "nodes quantized": f"{len(report.quantized):,}",
        "nodes kept in float32": f"{len(report.kept):,}",
        "bytes of constants before": f"{report.bytes_before:,}",
        "bytes of constants after": f"{report.bytes_after:,}",
    }
    if report.goal is not None and report.goal.metric:
        rows[f"{report.goal.metric} in float"] = f"{report.goal.before:.6g}"
        rows[f"{report.goal.metric} in integers"] = f"{report.goal.after:.6g}"
    for name, number in rows.items():
        table.add_row(name, number)
    return table


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"

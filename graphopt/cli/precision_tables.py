"""How ``graphopt convert`` shows what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from graphopt.cli import console

if TYPE_CHECKING:
    from graphopt.driver.precision.report import ConversionReport, OutputRow


def nodes_table(report: ConversionReport) -> Table:
    """One line a node: what it computes in and why, with the SQNR after it where there was data."""
    measured = any(row.sqnr_db is not None for row in report.nodes)
    sqnr = ("SQNR dB",) if measured else ()
    table = console.make_table("", "node", "operator", "in", *sqnr, "kept because of", "", right=sqnr)
    for row in report.nodes:
        cells = [row.op, row.precision, *([_cell(row.sqnr_db)] if measured else []), row.why]
        style = "bold" if row.why else None
        table.add_row(console.plain(row.node), *cells, console.plain(row.reason), style=style)
    return table


def outputs_table(data: str | None, outputs: Sequence[OutputRow]) -> Table:
    """One line an output: how far it moved."""
    right = ("SQNR dB", "relative L2 error")
    table = console.make_table(f"Outputs against float32 on {data}", "output", *right, right=right)
    for row in outputs:
        table.add_row(console.plain(row.name), _cell(row.sqnr_db), f"{row.error:.1e}")
    return table


def totals_table(title: str, report: ConversionReport) -> Table:
    """What the model takes before and after."""
    table = console.make_table(title, "", report.precision, right=(report.precision,))
    rows = {
        "nodes converted": f"{len(report.converted):,}",
        "nodes kept in float32": f"{len(report.kept):,}",
        "casts put in": f"{report.casts:,}",
        "bytes of weights before": f"{report.bytes_before:,}",
        "bytes of weights after": f"{report.bytes_after:,}",
    }
    for name, number in rows.items():
        table.add_row(name, number)
    return table


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"

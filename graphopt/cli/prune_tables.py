"""How ``graphopt prune`` shows what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from graphopt.cli import console

if TYPE_CHECKING:
    from graphopt.driver.prune_report import Change, PruneReport


def groups_table(report: PruneReport) -> Table:
    """One line a group that lost channels."""
    numbers = ("channels", "left", "parameters", "parameters left")
    table = console.make_table("", "group", *numbers, right=numbers)
    for row in report.groups:
        if row.channels.after < row.channels.before:
            counts = [n for change in (row.channels, row.parameters) for n in (change.before, change.after)]
            table.add_row(console.plain(row.name), *(f"{n:,.0f}" for n in counts))
    return table


def outputs_table(report: PruneReport) -> Table:
    """One line an output: how far it moved, and the proof."""
    repaired = bool(report.repairs)
    verified = report.reference is not None
    sqnr = ("SQNR dB", *(["after reconstruction"] if repaired else []))
    proof = ("error", "allowed") if verified else ()
    title = f"Outputs against the original on {report.data}"
    if verified:
        title += f"; error against the original with channels set to zero, in {report.reference}"
    table = console.make_table(title, "output", *sqnr, *proof, right=(*sqnr, *proof))
    for row in report.outputs:
        cells = [_cell(row.sqnr_db, ".1f")]
        cells += [_cell(row.recovered_db, ".1f")] if repaired else []
        cells += [_cell(row.error, ".1e"), _cell(row.allowed, ".1e")] if verified else []
        table.add_row(console.plain(row.name), *cells)
    return table


def totals_table(title: str, report: PruneReport) -> Table:
    """What the model takes before and after."""
    table = console.make_table(title, "", "before", "after", "left %", right=("before", "after", "left %"))
    rows: list[tuple[str, Change | None, int]] = [
        ("parameters", report.parameters, 0),
        ("bytes of weights", report.bytes, 0),
        ("FLOPs a run", report.flops, 0),
        ("predicted ms", report.predicted_ms, 3),
        ("measured ms", report.measured_ms, 3),
    ]
    for name, change, digits in rows:
        if change is not None:
            cells = [f"{n:,.{digits}f}" for n in (change.before, change.after)]
            table.add_row(name, *cells, f"{100 * change.ratio:.1f}")
    return table


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"

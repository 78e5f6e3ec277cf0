"""Plots of a quantization: the ranges of values, and what integers cost behind every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.driver.figures import new_figure, save_figure
from graphopt.driver.quantize.report import LayerRow, QuantizationReport, ValueRow
from graphopt.errors import UserError

RANGES, LAYERS = "ranges.png", "layers.png"
"""Names of the files."""
_ROW, _MARGIN, _TALLEST = 0.2, 1.5, 150.0
"""Inches for each row, for what is around them, and for all at most."""
_BEST = 80.0
"""Decibels that more is shown as, infinitely many too."""


def write_plots(folder: Path, report: QuantizationReport) -> list[Path]:
    """Draw the ranges of values, and the signal-to-noise ratio behind layers where it was measured; the files that were written.

    Raises:
        UserError: matplotlib is missing, or the folder can't be written to.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"can't make the folder {folder}: {error.strerror or error}", code="bad-output", hint="name one that can be"
        ) from error
    written = []
    if report.values:
        save_figure(_ranges(report.values, report.source), folder / RANGES)
        written.append(folder / RANGES)
    measured = [row for row in report.layers if row.sqnr_db is not None or row.alone_db is not None]
    if measured:
        save_figure(_layers(measured, report.source), folder / LAYERS)
        written.append(folder / LAYERS)
    return written


def _ranges(rows: Sequence[ValueRow], title: str) -> Any:
    figure, axes = _axes([row.name for row in rows], f"{title}: ranges of values in integers")
    least = min((row.scale for row in rows if row.low < row.high), default=1.0)
    axes.set_xscale("symlog", linthresh=least)
    for position, row in enumerate(rows):
        axes.plot([row.low, row.high], [position] * 2, lw=5, solid_capstyle="butt", color="C0")
        steps = [side * row.scale for side in (-1, 1) if side * (row.low if side < 0 else row.high) > 0]
        axes.plot(steps, [position] * len(steps), "k|", ms=6)
    axes.set_xlabel("from least to greatest number, linear below the smallest step; marks: one step from zero")
    return figure


def _layers(rows: Sequence[LayerRow], title: str) -> Any:
    names = [f"{row.node} ({row.op})" for row in rows]
    figure, axes = _axes(names, f"{title}: signal to noise against float")
    integers, floats = ([row.sqnr_db if bool(row.why) is kept else None for row in rows] for kept in (False, True))
    series = (
        ("behind the layer, in integers", integers, {"marker": "o", "color": "C0"}),
        ("behind the layer, in float", floats, {"marker": "o", "mfc": "w", "color": "C0"}),
        (
            "at the outputs, with it alone in integers",
            [row.alone_db for row in rows],
            {"marker": "D", "ms": 4, "color": "C1"},
        ),
    )
    for label, numbers, style in series:
        points = [(min(x, _BEST), y) for y, x in enumerate(numbers) if x is not None and not math.isinf(-x)]
        points += [(0.0, y) for y, x in enumerate(numbers) if x == -math.inf]
        if points:
            axes.plot(*zip(*points), ls="", label=label, **style)
    axes.set_xlabel(f"dB, at most {_BEST:g}")
    axes.legend(fontsize=7)
    return figure


def _axes(names: Sequence[str], title: str) -> tuple[Any, Any]:
    """A figure with a row for each name, the first on top."""
    figure = new_figure(11, min(_MARGIN + _ROW * len(names), _TALLEST))
    axes = figure.add_subplot()
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(title, fontsize=9)
    axes.grid(True, axis="x", alpha=0.3)
    return figure, axes

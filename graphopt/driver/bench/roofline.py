"""The roofline of a model: its kernels between the roofs of compute and bandwidth.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures", 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.driver.bench.machine_peak import MachinePeaks
from graphopt.driver.bench.per_layer import LayerTime
from graphopt.driver.figures import new_figure, save_figure

_LABELS = 8
"""How many kernels are named in the plot: those that take longest, all their calls together."""
_LEAST, _MOST = 1e-2, 1e3
"""Operations a byte: the horizontal axis covers at least this much of what the kernels have."""


def write_roofline(path: Path, title: str, layers: Sequence[LayerTime], peaks: MachinePeaks) -> None:
    """Draw kernels as points, their area proportional to their time, and the roofs; the format follows the file's suffix.

    Args:
        path: file to write or replace.
        title: above the plot.
        layers: kernels; those without operations or of unknown size are left out.
        peaks: of the machine that they ran on.

    Raises:
        UserError: matplotlib is missing, doesn't know the format, or the file can't be written.
    """
    points = [(x, y, e) for e in layers if (x := e.intensity) is not None and (y := e.gflops) is not None]
    figure = new_figure(11, 7)
    axes = figure.add_subplot(xscale="log", yscale="log")
    low = min([_LEAST, *(x / 2 for x, _, _ in points)])
    high = max([_MOST, *(2 * x for x, _, _ in points)])
    for level in peaks.levels:
        ridge = peaks.gflops / level.read
        axes.plot([low, ridge], [low * level.read, peaks.gflops], lw=1.2, label=f"{level.level}: {level.read:.0f} GB/s")
    slowest = peaks.gflops / max(level.read for level in peaks.levels)
    axes.plot([slowest, high], [peaks.gflops] * 2, "k", lw=1.5, label=f"multiply-add: {peaks.gflops:.0f} GFLOP/s")
    total = sum(e.ms for e in layers) or 1.0
    templates = list(dict.fromkeys(e.template or "unknown" for _, _, e in points))
    for i, template in enumerate(templates):
        mine = [(x, y, e) for x, y, e in points if (e.template or "unknown") == template]
        axes.scatter(
            [x for x, _, _ in mine], [y for _, y, _ in mine], [12 + 2500 * e.ms / total for _, _, e in mine],
            color=f"C{(i + len(peaks.levels)) % 10}", alpha=0.5, label=template,
        )  # fmt: skip
    together: dict[str, float] = {}
    for _, _, e in points:
        together[e.function] = together.get(e.function, 0.0) + e.ms
    named = sorted(together, key=lambda name: -together[name])[:_LABELS]
    for x, y, e in points:
        if e.function in named:  # a function that is called several times gets one label
            named.remove(e.function)
            text = f"{e.function} ({100 * together[e.function] / total:.0f}%)"
            axes.annotate(text, (x, y), (4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="operations a byte", ylabel="GFLOP/s", title=title, xlim=(low, high))
    floor = min([y for _, y, _ in points], default=1.0)
    axes.set_ylim(floor / 3, 2 * peaks.gflops)
    axes.grid(True, which="both", alpha=0.2)
    legend: Any = axes.legend(fontsize=8, loc="lower right")
    for handle in legend.legend_handles[len(peaks.levels) + 1 :]:
        handle.set_sizes([40])
    save_figure(figure, path)

"""Tables and plots of what ``pruning.py`` measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import Report

MARKS = {"l2": "o", "activation": "s", "taylor": "^", "random": "x"}


def write_report(store: Path) -> None:
    """Write ``pruning.md`` and a plot for each curve next to the measurements."""
    found = json.loads(store.read_text())
    report = Report(
        "Channel pruning",
        "2 threads, batch 1, float32; medians of interleaved runs of the compiled models. A ratio is the part of the channels of "
        "every group that goes; what stays is rounded to multiples.",
    )
    for name, curve in found.get("curves", {}).items():
        _curve(report, name, curve)
        _plot(store.parent / f"pruning-{name}.png", name, curve)
    if found.get("models"):
        _models(report, found["models"])
    report.write(store.with_suffix(".md"))


def _points(curve: dict[str, Any]) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """Points by criterion, ratios ascending."""
    by_criterion: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for key, point in curve.get("points", {}).items():
        criterion, ratio = key.split()
        by_criterion.setdefault(criterion, []).append((float(ratio), point))
    return {c: sorted(p, key=lambda item: item[0]) for c, p in sorted(by_criterion.items())}


def _curve(report: Report, name: str, curve: dict[str, Any]) -> None:
    original, sizes = curve["original"], curve["sizes"]
    whole = sizes["0"]
    report.add(
        "", f"## {name}: {curve['metric']} against latency", "",
        f"{curve['data'][0].upper()}{curve['data'][1:]}. Channels stay in multiples of {curve['multiple']}, the same part of "
        f"every group goes. Unpruned: {_percent(original)}, {whole['ms']:.3g} ms. Recovered: the part of the loss that "
        "reconstruction takes back. Latencies are those of repaired models: without repair, activations underflow, and subnormal "
        "numbers are slow.",
        "", f"![{curve['metric']} against latency](pruning-{name}.png)", "",
    )  # fmt: skip
    report.head(
        "ratio",
        "criterion",
        "before reconstruction",
        "after",
        "recovered",
        "latency ms",
        "latency",
        "parameters",
        "FLOPs",
    )
    rows = [(ratio, c, point) for c, points in _points(curve).items() for ratio, point in points]
    for ratio, criterion, point in sorted(rows, key=lambda row: row[0]):
        size = sizes[str(ratio)]
        loss, rest = abs(original - point["before"]), abs(original - point["after"])
        report.row(
            f"{100 * ratio:.0f}%", criterion, _percent(point["before"]), _percent(point["after"]),
            _percent(1 - rest / loss) if loss else "", f"{size['ms']:.3g}",
            *(f"{size[key] / whole[key]:.2f}x" for key in ("ms", "parameters", "flops")),
        )  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _models(report: Report, models: dict[str, Any]) -> None:
    report.add(
        "", "## Sizes and latencies", "",
        "Criterion l2, the same part of every group, in multiples of channels (in small groups a half, a quarter of it): what "
        "suits the target. ppocr_rec and nudenet are repaired before they are timed. "
        "Followed: how much the latency fell as part of how much the FLOPs fell.", "",
    )  # fmt: skip
    report.head("model", "multiple", "ratio", "parameters", "FLOPs", "latency ms", "latency", "followed")
    for name, model in sorted(models.items()):
        whole = model["sizes"]["0"]
        amounts = f"{whole['parameters'] / 1e6:.3g} M", f"{whole['flops'] / 1e9:.3g} G", f"{whole['ms']:.3g}"
        report.row(name, model["multiple"], "0%", *amounts, "", "")
        for ratio, size in sorted(model["sizes"].items()):
            if ratio != "0":
                report.row("", "", f"{100 * float(ratio):.0f}%", *_parts(size, whole))


def _parts(size: dict[str, float], whole: dict[str, float]) -> tuple[str, str, str, str, str]:
    """Cells of a pruned model: parameters, FLOPs, milliseconds, their part, and how that followed the FLOPs."""
    parts = {key: size[key] / whole[key] for key in ("parameters", "flops", "ms")}
    followed = f"{(1 - parts['ms']) / (1 - parts['flops']):.2f}" if parts["flops"] < 1 else ""
    return f"{parts['parameters']:.2f}x", f"{parts['flops']:.2f}x", f"{size['ms']:.3g}", f"{parts['ms']:.2f}x", followed


def _plot(file: Path, name: str, curve: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    sizes = curve["sizes"]
    for index, (criterion, points) in enumerate(_points(curve).items()):
        times = [sizes[str(ratio)]["ms"] for ratio, _ in points]
        for when, style in (("before", ":"), ("after", "-")):
            values = [100 * point[when] for _, point in points]
            axes.plot(
                times, values, style, marker=MARKS.get(criterion, "d"), color=f"C{index}",
                label=f"{criterion}, {when} reconstruction",
            )  # fmt: skip
    axes.plot([sizes["0"]["ms"]], [100 * curve["original"]], "k*", markersize=12, label="unpruned")
    for ratio, size in sizes.items():
        axes.axvline(size["ms"], color="0.9", zorder=0)
        axes.annotate(
            f"{100 * float(ratio):.0f}%", (size["ms"], 1.0), xycoords=("data", "axes fraction"), rotation=90, fontsize=7,
            ha="right", va="top", color="0.4",
        )  # fmt: skip
    axes.set_xlabel("latency in ms, batch 1, 2 threads")
    axes.set_ylabel(f"{curve['metric']} in %")
    axes.set_title(name)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)

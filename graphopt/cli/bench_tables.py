"""How ``graphopt bench`` shows what it measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from graphopt.cli import console

if TYPE_CHECKING:
    from graphopt.driver.bench.machine_peak import MachinePeaks
    from graphopt.driver.bench.measure import Latency
    from graphopt.driver.bench.per_layer import PerLayer


def latency_table(title: str, results: Sequence[Latency], absent: Sequence[tuple[str, str]]) -> Table:
    """One line a contender; ``absent`` are peers that couldn't take the model, with the reason."""
    counted = any(r.running_bytes is not None for r in results)
    memory = ("memory MB",) if counted else ()
    numbers = ("median ms", "min ms", "p90 ms", "runs", "ready after s", "ratio", *memory)
    compared = any(r.error is not None for r in results) or bool(absent)
    table = console.make_table(title, "", *numbers, *(("agreement",) if compared else ()), right=numbers)
    for r in results:
        cells = [
            r.name, f"{r.median_ms:.2f}", f"{r.min_ms:.2f}", f"{r.p90_ms:.2f}", str(r.runs),
            "" if r.compile_s is None else f"{r.compile_s:.1f}", f"{r.ratio:.2f}",
        ]  # fmt: skip
        if counted:
            cells.append("" if r.running_bytes is None else f"{r.running_bytes / 2**20:.0f}")
        if compared:
            agreement = "" if r.error is None else f"ok, error {r.error:.0e}"
            cells.append(agreement if r.problem is None else f"DIFFERS: {r.problem}")
        table.add_row(*map(console.plain, cells))
    for name, reason in absent:
        table.add_row(*map(console.plain, [name, *[""] * len(numbers), reason]))
    return table


def layer_table(found: PerLayer, peaks: MachinePeaks) -> Table:
    """One line a kernel call, in the order they run."""
    numbers = ("ms", "share %", "GFLOP/s", "GB/s", "% of peak")
    columns = ("kernel", *numbers, "bound", "template", "first operand -> result", "nodes")
    table = console.make_table(layer_title(found, peaks), *columns, right=numbers)
    total = found.kernels_ms or 1.0
    for layer in found.layers:
        limit = layer.limit(peaks)
        cells = [
            layer.function,
            f"{layer.ms:.4f}",
            f"{100 * layer.ms / total:.1f}",
            _number(layer.gflops),
            _number(layer.gbytes),
            "" if limit is None else f"{100 * limit[1]:.0f}",
            "" if limit is None else limit[0],
            layer.template,
            layer.shapes,
            layer.label,
        ]
        table.add_row(*map(console.plain, cells))
    return table


def layer_title(found: PerLayer, peaks: MachinePeaks) -> str:
    """Totals, and the peaks that percentages are of."""
    flops = sum(layer.flops or 0 for layer in found.layers)
    roofs = ", ".join(
        f"{level.level} {level.read:.0f} / {level.copy:.0f} / {level.write:.0f}" for level in peaks.levels
    )
    return (
        f"Kernels: {found.kernels_ms:.3f} ms of {found.total_ms:.3f} ms a run "
        f"({flops / 1e9:.2f} GFLOP, {flops / 1e6 / max(found.total_ms, 1e-9):.0f} GFLOP/s), medians of {found.runs} runs.\n"
        f"Measured peaks: {peaks.gflops:.0f} GFLOP/s ({peaks.core_gflops:.0f} a core); GB/s reading / copying / writing: {roofs}."
    )


def layers_json(found: PerLayer, peaks: MachinePeaks) -> dict[str, Any]:
    """The same as JSON."""
    from dataclasses import asdict

    def entry(layer: Any) -> dict[str, Any]:
        limit = layer.limit(peaks)
        rates = {"gflops": layer.gflops, "gbytes": layer.gbytes, "intensity": layer.intensity}
        bound = {"bound": limit[0], "part_of_peak": limit[1]} if limit else {"bound": None, "part_of_peak": None}
        return {**asdict(layer), **rates, **bound}

    return {
        "total_ms": found.total_ms,
        "kernels_ms": found.kernels_ms,
        "runs": found.runs,
        "peaks": asdict(peaks),
        "layers": [entry(layer) for layer in found.layers],
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"

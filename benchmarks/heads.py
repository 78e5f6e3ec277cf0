"""Layers of detection heads, video, speech and language models against ONNX Runtime, each runtime in a process of its own.

    python benchmarks/heads.py [--threads 1|2 ...] [--seconds S] [--peers NAME ...] [--write FILE] [LAYER ...]

The runtimes of a layer take turns in short bursts, and a pause lies between them: idle thread pools spin for a while.
Outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from head_layers import LAYERS, Layer
from report import Report, geometric_mean, listed, number
from runtimes import RUNTIMES

PAUSE_S = 0.03
BURSTS = 6
BUDGET_S = 4.0
"""No burst but the first two starts later than this: some layers take a second."""
TOLERANCE = 2e-4
"""Largest difference allowed, over the largest magnitude: positions are computed in float32 by all runtimes, in their own ways."""


class Worker:
    """A runtime in a process of its own that runs a model when it is told to."""

    def __init__(self, runtime: str, folder: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--worker", runtime, str(folder), "--threads", str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.outputs = folder / f"{runtime}.npz"

    def ready(self) -> bool:
        """Wait until the model has run once; False if it can't."""
        return self._line() == "ready"

    def burst(self, seconds: float) -> list[float]:
        """Milliseconds of runs one after the other."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        return [float(part) for part in self._line().split()]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def serve(runtime: str, folder: Path, threads: int) -> None:
    """Be a worker: run as long as each line of the input says, and answer with a line of times."""
    feed = dict(np.load(folder / "feed.npz"))
    run = RUNTIMES[runtime](folder / "model.onnx", feed, threads).caller(feed)
    np.savez(folder / f"{runtime}.npz", **{f"o{i}": value for i, value in enumerate(run().values())})
    print("ready", flush=True)
    for line in sys.stdin:
        run()
        end, times = time.perf_counter() + float(line), []
        while not times or time.perf_counter() < end:
            begin = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - begin))
        print(*times, flush=True)


@contextlib.contextmanager
def workers(folder: Path, runtimes: list[str], threads: int) -> Iterator[dict[str, Worker]]:
    """Processes of the runtimes that can run the model."""
    started = {name: Worker(name, folder, threads) for name in runtimes}
    try:
        yield {name: worker for name, worker in started.items() if worker.ready()}
    finally:
        for worker in started.values():
            worker.close()


def measured(running: dict[str, Worker], seconds: float) -> dict[str, float]:
    """Median milliseconds by runtime."""
    times: dict[str, list[float]] = {name: [] for name in running}
    start = time.perf_counter()
    for burst in range(BURSTS):
        if burst > 1 and time.perf_counter() - start > BUDGET_S:
            break
        for name, worker in running.items():
            time.sleep(PAUSE_S)
            times[name] += worker.burst(seconds / BURSTS)
    return {name: statistics.median(found) for name, found in times.items()}


def difference(ours: Path, theirs: Path) -> float:
    """Largest difference of two runtimes' outputs over the largest magnitude; infinite for other shapes or numbers."""
    worst = 0.0
    with np.load(ours) as a, np.load(theirs) as b:
        for key in a.files:
            x, y = a[key], b[key]
            if x.shape != y.shape:
                return float("inf")
            if x.size:
                worst = max(worst, float(np.abs(x.astype(np.float64) - y).max() / max(np.abs(y).max(), 1e-30)))
    return worst


def prepared(layer: Layer, folder: Path) -> None:
    """Write the model and its inputs to a folder."""
    model, feed = layer.make(np.random.default_rng(0))
    onnx.save(model, folder / "model.onnx")
    arrays: dict[str, Any] = feed
    np.savez(folder / "feed.npz", **arrays)


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", nargs="*", help="parts of layer names; all by default")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.6, help="for each runtime of a layer")
    parser.add_argument("--peers", nargs="*", default=["onnxruntime"], choices=[n for n in RUNTIMES if n != "graphopt"])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(args.worker[0], Path(args.worker[1]), args.threads[0])
        return
    runtimes = ["graphopt", *args.peers]
    report = Report(
        "Layers of detection heads, video, speech and language models",
        f"Medians in milliseconds, up to {BURSTS} bursts of {args.seconds / BURSTS:.2g} s each, runtimes in processes of "
        "their own that alternate; float32. A layer stands alone in its model, so that copies between layouts count as its own. "
        "The ratio is the fastest other runtime's time over graphopt's: above 1 graphopt is faster.",
    )
    report.head("layer", "threads", *runtimes, "ratio", "difference")
    ratios: dict[int, dict[str, float]] = {threads: {} for threads in args.threads}
    for layer in LAYERS:
        if args.layers and not any(word.lower() in layer.name.lower() for word in args.layers):
            continue
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            prepared(layer, folder)
            for threads in args.threads:
                with workers(folder, runtimes, threads) as running:
                    times = measured(running, args.seconds)
                    others = [times[name] for name in args.peers if name in times]
                    ratio = min(others) / times["graphopt"] if others and "graphopt" in times else None
                    apart = [
                        difference(running["graphopt"].outputs, running[name].outputs)
                        for name in args.peers
                        if name in running and "graphopt" in running
                    ]
                if ratio is not None:
                    ratios[threads][layer.name] = ratio
                error = max(apart, default=0.0)
                report.row(
                    layer.name,
                    threads,
                    *(number(times.get(name), 3) or "fails" for name in runtimes),
                    number(ratio),
                    f"**{error:.0e}**" if error > TOLERANCE else f"{error:.0e}",
                )
    for threads, found in ratios.items():
        slower = [f"{name} ({ratio:.2f})" for name, ratio in found.items() if ratio < 0.97]
        report.add(
            "",
            f"Geometric mean of the ratios on {threads} thread{'s' if threads > 1 else ''}: "
            f"{geometric_mean(found.values()):.2f}. Slower than another runtime: {listed(slower)}.",
        )
    report.write(args.write)


if __name__ == "__main__":
    main()

"""Layers of detection heads, video, speech and language models against ONNX Runtime, each runtime in a process of its own.

    python benchmarks/heads.py [--threads 1|2 ...] [--seconds S] [--peers NAME ...] [--results FILE] [--minutes M] [--write FILE]
        [LAYER ...]

The runtimes of a layer take turns in short bursts, and a pause lies between them: idle thread pools spin for a while. Outputs are
compared. With a file of results, what is in it isn't measured again, so that a long list is done in parts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from head_arithmetic import ARITHMETIC
from head_layers import LAYERS, Layer
from head_movement import MOVEMENT
from report import Report, geometric_mean, listed, number
from runtimes import RUNTIMES

PAUSE_S = 0.03
BURSTS = 4
MARK = "heads:"
"""What a worker's answers begin with."""
BUDGET_S = 4.0
"""No burst but the first two starts later than this: some layers take a second."""
TOLERANCE = 2e-4
"""Largest difference allowed, over the largest magnitude: positions are computed in float32 by all runtimes, in their own ways."""

Results = dict[str, dict[str, float]]
"""Milliseconds by runtime, and the largest difference, by layer and threads."""


class Worker:
    """A runtime in a process of its own that loads models and runs them when it is told to."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        command = [sys.executable, __file__, "--worker", runtime]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def load(self, folder: Path, threads: int) -> bool:
        """Take the model of a folder and run it once; False if the runtime can't."""
        return self._answer(f"load {threads} {folder}") == "ready"

    def burst(self, seconds: float) -> list[float]:
        """Milliseconds of runs one after the other."""
        return [float(part) for part in self._answer(f"burst {seconds}").split()]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _answer(self, order: str) -> str:
        """The line that follows an order; others may be a runtime's own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(order, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK).strip()
        raise RuntimeError(f"{self.runtime} ended")


def serve(runtime: str) -> None:
    """Be a worker: one line of input is an order, and is answered with one line."""
    run: Any = None
    for line in sys.stdin:
        order, _, rest = line.strip().partition(" ")
        if order == "burst":
            run()
            end, times = time.perf_counter() + float(rest), []
            while not times or time.perf_counter() < end:
                begin = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - begin))
            print(MARK, *times, flush=True)
            continue
        threads, _, path = rest.partition(" ")
        run, folder = None, Path(path)
        feed = dict(np.load(folder / "feed.npz"))
        try:
            run = RUNTIMES[runtime](folder / "model.onnx", feed, int(threads)).caller(feed)
            np.savez(folder / f"{runtime}.npz", **{f"o{i}": value for i, value in enumerate(run().values())})
        except Exception as error:  # whatever it is that a runtime refuses with
            print(f"{runtime}: {error}", file=sys.stderr)
        print(MARK, "fails" if run is None else "ready", flush=True)


def measured(running: Sequence[Worker], seconds: float) -> dict[str, float]:
    """Median milliseconds by runtime."""
    times: dict[str, list[float]] = {worker.runtime: [] for worker in running}
    start = time.perf_counter()
    for burst in range(BURSTS):
        if burst > 1 and time.perf_counter() - start > BUDGET_S:
            break
        for worker in running:
            time.sleep(PAUSE_S)
            times[worker.runtime] += worker.burst(seconds / BURSTS)
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


def measure(layers: Sequence[Layer], runtimes: Sequence[str], args: argparse.Namespace, results: Results) -> None:
    """Fill up the results, as far as time allows."""
    end = time.monotonic() + args.minutes * 60
    workers = [Worker(name) for name in runtimes]
    for layer in layers:
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            for threads in args.threads:
                key = f"{layer.name}|{threads}"
                if key in results or time.monotonic() > end:
                    continue
                if not (folder / "model.onnx").exists():
                    prepared(layer, folder)
                running = [worker for worker in workers if worker.load(folder, threads)]
                found = measured(running, args.seconds)
                ours, *theirs = [folder / f"{name}.npz" for name in runtimes]
                errors = [difference(ours, other) for other in theirs if ours.exists() and other.exists()]
                results[key] = {**found, "difference": max(errors, default=0.0)}
                if args.results:
                    args.results.write_text(json.dumps(results))
    for worker in workers:
        worker.close()


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", nargs="*", help="parts of layer names; all by default")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.6, help="for each runtime of a layer")
    parser.add_argument("--minutes", type=float, default=1e9, help="no layer is begun later")
    parser.add_argument("--results", type=Path, help="keep what is measured here, and go on where it ends")
    parser.add_argument("--peers", nargs="*", default=["onnxruntime"], choices=[n for n in RUNTIMES if n != "graphopt"])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(args.worker)
        return
    runtimes = ["graphopt", *args.peers]
    layers = [
        layer
        for layer in (*LAYERS, *MOVEMENT, *ARITHMETIC)
        if not args.layers or any(word.lower() in layer.name.lower() for word in args.layers)
    ]
    results: Results = json.loads(args.results.read_text()) if args.results and args.results.exists() else {}
    measure(layers, runtimes, args, results)
    written(layers, runtimes, args, results).write(args.write)


def written(layers: Sequence[Layer], runtimes: Sequence[str], args: argparse.Namespace, results: Results) -> Report:
    """The report of what was measured."""
    report = Report(
        "Layers of detection heads, video, speech and language models",
        f"Medians in milliseconds, up to {BURSTS} bursts of {args.seconds / BURSTS:.2g} s each, runtimes in processes of "
        "their own that alternate; float32. A layer stands alone in its model, so that copies between layouts and memory for "
        "results count as its own. The ratio is the fastest other runtime's time over graphopt's: above 1 graphopt is faster.",
    )
    report.head("layer", "threads", *runtimes, "ratio", "difference")
    ratios: dict[int, dict[str, float]] = {threads: {} for threads in args.threads}
    for layer in layers:
        for threads in args.threads:
            found = results.get(f"{layer.name}|{threads}")
            if found is None:
                continue
            others = [found[name] for name in args.peers if name in found]
            ratio = min(others) / found["graphopt"] if others and "graphopt" in found else None
            if ratio is not None:
                ratios[threads][layer.name] = ratio
            error = found["difference"]
            report.row(
                layer.name,
                threads,
                *(number(found.get(name), 3) or "fails" for name in runtimes),
                number(ratio),
                f"**{error:.0e}**" if error > TOLERANCE else f"{error:.0e}",
            )
    for threads, by_layer in ratios.items():
        slower = [f"{name} ({ratio:.2f})" for name, ratio in by_layer.items() if ratio < 0.97]
        report.add(
            "",
            f"Geometric mean of the ratios on {threads} thread{'s' if threads > 1 else ''}: "
            f"{geometric_mean(by_layer.values()):.2f}. Slower than another runtime: {listed(slower)}.",
        )
    return report


if __name__ == "__main__":
    main()

"""What zeros in weights save, and what they cost: bytes of compiled files, load time, latency.

    python benchmarks/sparsity.py [--threads 1|2] [--repeat N] [--write FILE] [MODEL ...]

Sizes are those of ``.gopt`` files. ``sparsity_accuracy.py`` has accuracies.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from report import Report, number, plural

import graphopt
from graphopt.driver.compiling import compile as compile_model
from graphopt.driver.sparsity import file_bytes, sparsify
from graphopt.driver.sparsity_report import SparsityReport
from graphopt.ir.graph import Graph
from graphopt.models import zoo

DEFAULT = ("digits", "ppocr_rec", "resnet50")
REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("50%", {"ratio": 0.5}),
    ("80%", {"ratio": 0.8}),
    ("90%", {"ratio": 0.9}),
    ("2:4", {"pattern": "2:4"}),
)

_LOAD = """
import json, sys, time
import numpy as np
import tvm, graphopt, graphopt.runtime.load, graphopt.backends.build.whole_module

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))

path, arrays = sys.argv[1:3]
with np.load(arrays) as archive:
    feed = {bytes.fromhex(key[1:]).decode(): archive[key] for key in archive.files}
open(path, "rb").read()
base = kilobytes("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
start = time.perf_counter()
model = graphopt.load(path)
loaded = time.perf_counter()
model.run(feed)
first = time.perf_counter()
resident = kilobytes("VmRSS") - base
print(json.dumps({"load": 1e3 * (loaded - start), "first": 1e3 * (first - loaded), "resident": resident / 1024,
                  "peak": (kilobytes("VmHWM") - base) / 1024}))
"""


def load(path: Path, arrays: Path) -> dict[str, float]:
    """Milliseconds and megabytes of loading a file and running it once, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path), str(arrays)], capture_output=True, text=True, timeout=600, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def shapes_of(model: zoo.ZooModel) -> dict[str, Any] | None:
    """Shapes to import a model with."""
    return dict(model.shapes) or None


def sizes(report: Report, names: list[str], threads: int) -> None:
    """The table of sizes and latencies."""
    report.add(
        "## Bytes of compiled files, and latency", "",
        "Magnitude, the same part of every layer; MB are 2^20 bytes. *Kept dense* is the sparse file without compression. "
        "*Winograd* says how much of the constants' bytes belong to Winograd kernels, whose transformed weights have fewer zeros, "
        "and which part of these is left; *exact* is the file without Winograd. SQNR compares outputs with the dense model's.",
        "",
    )  # fmt: skip
    report.head(
        "model", "zeros", "of weights %", "dense MB", "sparse MB", "ratio", "kept dense MB", "Winograd bytes %", "left %",
        "exact sparse MB", "SQNR dB", "dense ms", "sparse ms",
    )  # fmt: skip
    for name in names:
        model = zoo.get(name)
        graph = graphopt.import_onnx(model.path(), shapes=shapes_of(model))
        for label, request in REQUESTS:
            sparse, found = sparsify(graph, calibration=model.inputs(0), reconstruct=False, threads=threads, **request)
            exact = file_bytes(compile_model(sparse, "native", threads=threads, exact=True))
            report.row(*_cells(name, label, found, exact))


def _cells(name: str, label: str, found: SparsityReport, exact: int) -> list[str]:
    file, latency = found.artifact_bytes, found.latency_ms
    assert file is not None
    assert latency is not None
    everything = sum(row.bytes for row in found.stored)
    winograd = [row for row in found.stored if "winograd" in row.template]
    size, stored = sum(row.bytes for row in winograd), sum(row.stored for row in winograd)
    return [
        name, label, number(100 * found.zeros.after / found.elements, 1), *(number(b / 2**20) for b in (file.before, file.after)),
        number(file.ratio), number((found.dense_bytes or 0) / 2**20), number(100 * size / everything, 0),
        number(100 * stored / size, 0) if size else "", number(exact / 2**20), number(found.outputs[0].sqnr_db, 1),
        number(latency.before, 3), number(latency.after, 3),
    ]  # fmt: skip


def loading(report: Report, name: str, threads: int, repeat: int) -> None:
    """The table of load times."""
    model = zoo.get(name)
    graph = graphopt.import_onnx(model.path(), shapes=shapes_of(model))
    report.add(
        "", f"## Loading {name}", "",
        f"Means over {repeat} fresh processes that have imported TVM and read the file once; the spread is over these. "
        "Resident memory beyond the import is that after a run, its peak that over loading and running.", "",
    )  # fmt: skip
    report.head("file", "MB", "load ms", "spread", "first run ms", "resident MB", "peak MB")
    cases: list[tuple[str, Graph, bool]] = [("dense", graph, True)]
    for label, request in REQUESTS[:2]:
        sparse, _ = sparsify(graph, compiled=False, **request)
        cases += [(f"{label}, compressed", sparse, True)] + (
            [(f"{label}, kept dense", sparse, False)] * (label == "80%")
        )
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        arrays, file = Path(folder) / "feed.npz", Path(folder) / "model.gopt"
        np.savez(arrays, **{"x" + key.encode().hex(): array for key, array in model.inputs(0).items()})
        for label, made, compressed in cases:
            compile_model(made, "native", threads=threads).save(file, compressed=compressed)
            runs = [load(file, arrays) for _ in range(repeat)]
            mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
            times = [run["load"] for run in runs]
            report.row(
                label, number(file.stat().st_size / 2**20, 1), number(mean["load"], 0), f"{min(times):.0f}-{max(times):.0f}",
                number(mean["first"], 0), number(mean["resident"], 0), number(mean["peak"], 0),
            )  # fmt: skip


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    report = Report(
        f"Sparsity, {plural(args.threads, 'thread')}",
        "Zeros in weights make compiled files smaller. No kernel skips them: where dense and sparse latency differ, that is noise.",
    )
    sizes(report, list(args.models), args.threads)
    if "resnet50" in args.models:
        loading(report, "resnet50", args.threads, args.repeat)
    report.write(args.write)


if __name__ == "__main__":
    main()

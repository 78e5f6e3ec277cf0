"""Peak memory while a model is loaded and run, ours against ONNX Runtime's, each in a fresh process.

    python benchmarks/memory.py [--threads 1|2] [--runs N] [--write FILE] [MODEL ...]

Measured beyond what the process holds once the library is imported and the inputs are there. Ours loads a compiled artefact,
ONNX Runtime the ONNX model: what each does in production. Pages of the artefact that are mapped count like any other.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from report import Report, listed, number, plural

import graphopt
from graphopt.backends.base.scratch import scratch_folder
from graphopt.driver.bench.child import Child, Entrant
from graphopt.driver.bench.entrants import own_entrant, peer_entrant
from graphopt.driver.compiling import compile as compile_model
from graphopt.models import zoo

DEFAULT = tuple(zoo.names())


def megabytes(entrant: Entrant, runs: int) -> tuple[float, float]:
    """What a process of its own takes at most while it loads the model and runs it once, and while it runs it again.

    Raises:
        CompileError: the runtime can't take the model.
    """
    with scratch_folder() as folder, Child(entrant, folder) as child:
        for _ in range(runs):
            child.turn(0.0, 0.0)
        if child.loading_bytes is None or child.running_bytes is None:
            raise SystemExit("memory is counted on Linux only")
        return max(child.loading_bytes, child.running_bytes) / 2**20, child.running_bytes / 2**20


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    report = Report(
        f"Peak memory, {plural(args.threads, 'thread')}",
        f"Peak resident memory in MB beyond the import, each model in a fresh process on {plural(args.threads, 'thread')}: over "
        f"loading and a first run, and over {plural(args.runs, 'further run')}. Below 1 we take less.",
    )
    report.head(
        "model",
        "weights MB",
        "graphopt, loading",
        "ONNX Runtime, loading",
        "ratio",
        "graphopt, running",
        "ONNX Runtime, running",
        "ratio",
    )
    more: list[str] = []
    for name in args.models:
        model = zoo.get(name)
        feed = model.inputs(0)
        shapes = {key: array.shape for key, array in feed.items()}
        try:
            with scratch_folder() as folder:
                compiled = compile_model(model.path(), "native", threads=args.threads, shapes=shapes)
                ours = megabytes(own_entrant(compiled, folder, feed, 0.0), args.runs)
                theirs = megabytes(peer_entrant("onnxruntime", model.path(), folder, feed, args.threads), args.runs)
        except graphopt.GraphOptError as error:
            report.row(name, error.message, *[""] * 6)
            continue
        cells: list[str] = []
        for mine, other in zip(ours, theirs):
            cells += [number(mine, 0), number(other, 0), number(mine / other)]
        report.row(name, number(os.path.getsize(model.path()) / 2**20, 0), *cells)
        if any(mine > other for mine, other in zip(ours, theirs)):
            more.append(name)
    report.add("", f"More memory than ONNX Runtime: {listed(more)}.")
    report.write(args.write)


if __name__ == "__main__":
    main()

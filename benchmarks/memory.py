"""Peak memory while a model is loaded and run, ours against ONNX Runtime's, each in a fresh process.

    python benchmarks/memory.py [--threads 1|2] [--runs N] [--write FILE] [MODEL ...]

Measured beyond what the process holds once the library is imported and the inputs are there. Ours loads a compiled artefact,
ONNX Runtime the ONNX model: what each does in production. Pages of the artefact that are mapped count like any other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from report import Report, listed, number, plural

import graphopt
from graphopt.driver.compiling import compile as compile_model
from graphopt.models import zoo

DEFAULT = ("resnet50", "densenet121", "vgg19", "squeezenet", "shufflenet", "inception_v1", "inception_v2", "opennsfw", "nudenet",
           "ppocr_det", "ppocr_rec", "ppocr_cls")  # fmt: skip

_COMMON = """
import gc, json, sys
import numpy as np

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))

def reset_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

path, arrays, threads, runs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with np.load(arrays) as archive:
    feed = {bytes.fromhex(key[1:]).decode(): archive[key] for key in archive.files}
"""
_FINISH = """
gc.collect()
base = kilobytes("VmRSS")
reset_peak()
run = load()
run()
loaded = kilobytes("VmHWM")
reset_peak()
for _ in range(runs):
    run()
print(json.dumps({"base": base, "peak": max(loaded, kilobytes("VmHWM")) - base, "running": kilobytes("VmHWM") - base}))
"""
CHILDREN = {
    "graphopt": _COMMON + """
import tvm, graphopt, graphopt.runtime.load, graphopt.backends.build.whole_module
def load():
    model = graphopt.load(path)
    return lambda: model.run(feed)
""" + _FINISH,
    "onnxruntime": _COMMON + """
import onnxruntime as ort
def load():
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)
""" + _FINISH,
}  # fmt: skip


def child(kind: str, path: Path, arrays: Path, threads: int, runs: int) -> dict[str, float]:
    """Megabytes that a fresh process reports: ``peak`` over loading and running, ``running`` once loaded."""
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN[kind], str(path), str(arrays), str(threads), str(runs)],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return {key: value / 1024 for key, value in found.items()}


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
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            artifact, arrays = Path(folder) / "model.gopt", Path(folder) / "feed.npz"
            feed = model.inputs(0)
            np.savez(arrays, **{"x" + key.encode().hex(): array for key, array in feed.items()})
            try:
                shapes = {key: array.shape for key, array in feed.items()}
                compile_model(model.path(), "native", threads=args.threads, shapes=shapes).save(artifact)
                ours = child("graphopt", artifact, arrays, args.threads, args.runs)
                theirs = child("onnxruntime", model.path(), arrays, args.threads, args.runs)
            except graphopt.GraphOptError as error:
                report.row(name, error.message, *[""] * 6)
                continue
            except subprocess.CalledProcessError as error:
                report.row(name, (error.stderr.strip().splitlines() or ["fails"])[-1], *[""] * 6)
                continue
        cells: list[str] = []
        for key in ("peak", "running"):
            cells += [number(ours[key], 0), number(theirs[key], 0), number(ours[key] / theirs[key])]
        report.row(name, number(os.path.getsize(model.path()) / 2**20, 0), *cells)
        if ours["running"] > theirs["running"] or ours["peak"] > theirs["peak"]:
            more.append(name)
    report.add("", f"More memory than ONNX Runtime: {listed(more)}.")
    report.write(args.write)


if __name__ == "__main__":
    main()

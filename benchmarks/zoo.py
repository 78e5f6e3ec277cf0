"""Latency of zoo models against peers, interleaved in one process with the same threads and inputs.

    python benchmarks/zoo.py [--threads N] [--repeat N] [--tvm MODEL ...] [--write FILE] [MODEL ...]

Every result is compared with ONNX Runtime's (optimisation disabled) by the tolerance table before it is timed.
``--tvm`` adds TVM's own default pipeline for the named models; it takes seconds a run.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

import graphopt
from graphopt.driver.accuracy import compare
from graphopt.driver.bench.measure import Contender, measure
from graphopt.driver.bench.peers.prepare import peer
from graphopt.driver.compiling import compile as compile_model
from graphopt.models import zoo

DEFAULT = (
    "digits", "squeezenet", "shufflenet", "resnet50", "densenet121", "inception_v1", "inception_v2", "vgg19",
    "bvlc_alexnet", "zfnet512", "opennsfw", "nudenet", "ppocr_det", "ppocr_rec", "ppocr_cls", "silero_vad_op18_ifless",
)  # fmt: skip


def reference(path: str, feed: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
    """Outputs of ONNX Runtime with its optimiser off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(path, options, ["CPUExecutionProvider"]).run(names, feed))


def row(name: str, threads: int, repeat: int, with_tvm: bool) -> tuple[str, float]:
    """One line of the table and our speed-up over ONNX Runtime."""
    model = zoo.get(name)
    path = str(model.path())
    feed = dict(model.inputs(0))
    start = time.perf_counter()
    compiled = compile_model(path, "native", threads=threads, shapes=model.shapes or None)
    seconds = time.perf_counter() - start
    got = compiled.run(feed)
    want = reference(path, feed, [s.name for s in compiled.outputs])
    checks = [compare(n, g, w, reduction=4096, depth=50) for (n, g), w in zip(got.items(), want)]
    if not all(c.ok for c in checks):
        raise SystemExit(f"{name}: wrong result: {[c.problem for c in checks]}")
    contenders = [Contender("graphopt", lambda: compiled.run(feed), seconds), peer("onnxruntime", path, feed, threads)]
    if with_tvm:
        contenders.append(peer("tvm", path, feed, threads))
    latencies = {entry.name: entry for entry in measure(contenders, repeat, budget_s=30.0)}
    ours, ort = latencies["graphopt"], latencies["onnxruntime"]
    tvm = latencies.get("tvm")
    tvm_text = f"{tvm.median_ms:.0f} ({tvm.ratio:.0f}x)" if tvm else ""
    worst = max(c.error for c in checks)
    line = f"| {name} | {seconds:.1f} | {ours.median_ms:.2f} | {ort.median_ms:.2f} | {ort.ratio:.2f} | {tvm_text} | {worst:.1e} |"
    return line, ort.ratio


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--tvm", nargs="*", default=[])
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    info = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    lines = [
        f"# Zoo models, {args.threads} thread{'s' if args.threads > 1 else ''}",
        "",
        f"{date.today()}, {cpu}, {args.threads} threads, batch 1 at the zoo's standard shapes. graphopt {version('graphopt')}, "
        f"ONNX Runtime {version('onnxruntime')}, TVM {version('apache-tvm')}.",
        "Medians of interleaved runs in one process; the ratio is ONNX Runtime over graphopt, above 1 we are faster.",
        "",
        f"Made by `python {' '.join(sys.argv)}`.",
        "",
        "| model | compile s | graphopt ms | ONNX Runtime ms | ratio | TVM default ms | error |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for name in args.models:
        try:
            line, ratio = row(name, args.threads, args.repeat, name in args.tvm)
        except graphopt.GraphOptError as e:
            line, ratio = f"| {name} | {e.message} | | | | | |", math.nan
        print(line, flush=True)
        lines.append(line)
        if not math.isnan(ratio):
            ratios.append(ratio)
    geometric = math.exp(sum(map(math.log, ratios)) / max(len(ratios), 1))
    lines += ["", f"Geometric mean of the ratios: {geometric:.2f}."]
    if args.write:
        args.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

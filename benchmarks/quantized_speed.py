"""Quantized models against the same models in float32, and against ONNX Runtime and OpenVINO on the same quantized file.

    python benchmarks/quantized_speed.py [--threads 1|2] [--rounds N] [--processes N] [--write FILE] [MODEL ...]

A MODEL of the zoo is optimised, and quantized by ONNX Runtime's ``quantize_static`` (QDQ, a scale an output channel, data u8,
weights s8; three inputs of the zoo). Every runtime has a process of its own; they take turns. SQNR is that of our first result
against ONNX Runtime's without optimisation, which computes what the file says in float32. Compile times are without any cache.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from commits import HERE, Runner, alternate, environment
from onnxruntime.quantization import QuantFormat, quantize_static
from precision import by_onnxruntime, sqnr
from quantization import PER_CHANNEL, Reader
from report import Report, geometric_mean, plural

import graphopt
from graphopt.models import zoo

DEFAULT = ("squeezenet", "mobilenet_v2", "resnet50", "opennsfw", "nudenet", "ppocr_det")
CALIBRATION = 3

_OURS = """
import json, sys, time
import graphopt, numpy as np
path, threads = sys.argv[1], int(sys.argv[2])
folder = path.rpartition("/")[0]
compiled = graphopt.compile(path, "native", threads=threads)
loaded = np.load(folder + "/feed.npz")
feed = {s.name: loaded[s.name] for s in compiled.inputs}
np.save(path + ".npy", next(iter(compiled.run(feed).values())))
"""
_COMPILE = """
import sys, time
import graphopt
graphopt.compile(sys.argv[1], "native", level=0, cache=False)
start = time.perf_counter()
graphopt.compile(sys.argv[2], "native", threads=int(sys.argv[3]), cache=False)
print(time.perf_counter() - start)
"""
_PEER = """
import json, sys, time
from pathlib import Path
import numpy as np, onnx
from graphopt.driver.bench.peers import {peer} as peer
path, threads = Path(sys.argv[1]), int(sys.argv[2])
feed = dict(np.load(path.parent / "feed.npz"))
run = peer.prepare(path, onnx.load(path), feed, threads)
class compiled:
    run = staticmethod(lambda feed: run())
run()
"""


def prepare(name: str, folder: Path) -> None:
    """Writes ``float.onnx``, ``quantized.onnx`` and ``feed.npz``."""
    feed = zoo.get(name).inputs(0)
    graph = graphopt.import_onnx(zoo.get(name).path(), shapes={n: a.shape for n, a in feed.items()})
    onnx.save(graphopt.export_onnx(graphopt.optimize(graph)), folder / "float.onnx")
    np.savez(folder / "feed.npz", **feed)
    logging.disable(logging.WARNING)
    feeds = [zoo.get(name).inputs(seed) for seed in range(1, 1 + CALIBRATION)]
    source, done = folder / "float.onnx", folder / "quantized.onnx"
    quantize_static(source, done, Reader(feeds), quant_format=QuantFormat.QDQ, **PER_CHANNEL)


def compile_seconds(folder: Path, threads: int, times: int) -> tuple[float, float]:
    """Medians of what float and quantized take to compile, in processes of their own that have compiled a tiny model before."""
    tiny = folder / "tiny.onnx"
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["": 18]> t (float[4] x) => (float[4] y) { y = Relu(x) }'
        ),
        tiny,
    )
    files = ("float.onnx", "quantized.onnx")
    found: dict[str, list[float]] = {file: [] for file in files}
    for _ in range(times):
        for file in files:
            command = [sys.executable, "-c", _COMPILE, str(tiny), str(folder / file), str(threads)]
            done = subprocess.run(command, env=environment(HERE), cwd=HERE, check=True, capture_output=True, text=True)
            found[file].append(float(done.stdout.splitlines()[-1]))
    return statistics.median(found[files[0]]), statistics.median(found[files[1]])


def exactness(folder: Path) -> float:
    """Signal to noise of our quantized result in dB."""
    feed = dict(np.load(folder / "feed.npz"))
    want = by_onnxruntime((folder / "quantized.onnx").read_bytes(), [feed])
    first = next(iter(want[0]))
    return sqnr([{first: np.load(folder / "quantized.onnx.npy")}], [{first: want[0][first]}])


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="of each runtime")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    report = Report(
        f"Quantized models, {plural(args.threads, 'thread')}",
        f"Medians of {args.processes} times {args.rounds} rounds of processes that take turns, in milliseconds; all but the "
        "first run the same QDQ file. The ratios are of our float32, and of the best of all others (float32 too), over our time, "
        "above 1 we are faster.",
    )
    report.head(
        "model",
        "float32",
        "int8",
        "ONNX Runtime",
        "OpenVINO",
        "over float32",
        "over the best",
        "SQNR dB",
        "compile float32 s",
        "int8 s",
        "ratio",
    )
    over_float, over_best = [], []
    for name in args.models:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            prepare(name, folder)
            programs = [
                ("float.onnx", _OURS), ("quantized.onnx", _OURS),
                *(("quantized.onnx", _PEER.format(peer=peer)) for peer in ("onnxruntime", "openvino")),
            ]  # fmt: skip
            rounds: list[list[float]] = [[] for _ in programs]
            for _ in range(args.processes):
                runners = [Runner(HERE, str(folder / file), args.threads, source) for file, source in programs]
                for times, more in zip(rounds, alternate(runners, args.rounds), strict=True):
                    times += more
                for runner in runners:
                    runner.close()
            ms = [1e3 * statistics.median(times) for times in rounds]
            over_float.append(ms[0] / ms[1])
            over_best.append(min(ms[0], *ms[2:]) / ms[1])
            seconds = compile_seconds(folder, args.threads, args.processes)
            report.row(
                name,
                *(f"{t:.3f}" for t in ms),
                f"{over_float[-1]:.2f}",
                f"{over_best[-1]:.2f}",
                f"{exactness(folder):.1f}",
                *(f"{t:.1f}" for t in seconds),
                f"{seconds[1] / seconds[0]:.2f}",
            )
    report.add(
        "",
        f"Geometric means: {geometric_mean(over_float):.2f} over float32, {geometric_mean(over_best):.2f} over the best.",
    )
    report.write(args.write)


if __name__ == "__main__":
    main()

"""What 16 bits cost in accuracy: zoo models converted, run here and in ONNX Runtime, against float32.

    python benchmarks/precision.py [--write FILE] [MODEL ...]

SQNR is the power of float32's results (ONNX Runtime without optimisation) over that of their difference, in dB, over some inputs of
the zoo. ONNX Runtime runs the same file in float16, keeping what its float32 kernels hand to one another unrounded; it has no
kernels for bfloat16 on CPUs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from report import Report, listed
from zoo import DEFAULT

import graphopt
from graphopt.models import zoo

Arrays = Mapping[str, np.ndarray[Any, Any]]


def session(model: bytes) -> ort.InferenceSession:
    """ONNX Runtime without optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def results(runtime: ort.InferenceSession, feed: Arrays) -> Arrays:
    """All outputs by name."""
    names = [o.name for o in runtime.get_outputs()]
    return dict(zip(names, runtime.run(names, {i.name: feed[i.name] for i in runtime.get_inputs()}), strict=True))


def sqnr(found: Sequence[Arrays], want: Sequence[Arrays]) -> float:
    """In dB; that of the worst output."""
    worst = np.inf
    for name in (n for n, a in want[0].items() if a.dtype.kind == "f"):
        wide, narrow = (
            np.concatenate([run[name].astype(np.float64).ravel() for run in runs]) for runs in (want, found)
        )
        noise = float(((wide - narrow) ** 2).sum())
        worst = min(worst, np.inf if noise == 0 else 10 * np.log10(float((wide**2).sum()) / noise))
    return worst


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[*DEFAULT, "bert_tiny", "vit_tiny", "mobilenet_v2"])
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    report = Report(
        "16 bits against float32: accuracy",
        "Signal to quantisation noise in dB, of the worst output of each model; weights in MB. Inputs and outputs stay float32.",
    )
    report.head("model", "fp16", "fp16, ONNX Runtime", "bf16", "weights float32", "weights 16 bits", "kept in float32")
    failed: list[str] = []
    for name in args.models:
        model = zoo.get(name)
        feeds = [model.inputs(i) for i in range(args.samples)]
        shapes = {n: a.shape for n, a in feeds[0].items()}
        wide = graphopt.import_onnx(model.path(), shapes=shapes)
        exported = graphopt.export_onnx(wide)
        want = [results(session(exported.SerializeToString()), feed) for feed in feeds]
        cells: dict[str, str] = {}
        for kind in ("fp16", "bf16"):
            graph, _ = graphopt.convert(exported, precision=kind)
            narrow = graphopt.export_onnx(graph)
            compiled = graphopt.compile(narrow, "native", threads=1)
            found = [compiled.run({s.name: feed[s.name] for s in compiled.inputs}) for feed in feeds]
            cells[kind] = f"{sqnr(found, want):.1f}"
            if kind == "fp16":
                try:
                    peer = session(narrow.SerializeToString())
                    cells["peer"] = f"{sqnr([results(peer, feed) for feed in feeds], want):.1f}"
                except Exception as error:  # of any class: the peer's refusal is a result
                    cells["peer"] = "refused"
                    failed.append(f"{name}: {str(error).splitlines()[0][:120]}")
            size = sum(v.data.nbytes for v in graph.constants() if v.data is not None)
            kept = sum(
                1 for n in graph.nodes if n.op != "Cast" and n.outputs[0] is not None and str(n.out.dtype) == "f32"
            )
        before = sum(v.data.nbytes for v in wide.constants() if v.data is not None)
        report.row(name, cells["fp16"], cells["peer"], cells["bf16"], f"{before / 1e6:.1f}", f"{size / 1e6:.1f}", kept)
    if failed:
        report.add("", f"Refused by ONNX Runtime: {listed(failed)}.")
    report.write(args.write)


if __name__ == "__main__":
    main()

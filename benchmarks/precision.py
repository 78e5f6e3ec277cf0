"""What 16 bits cost in accuracy: models converted, run here, in ONNX Runtime and in OpenVINO, against float32.

    python benchmarks/precision.py [--write FILE] [--samples N] [--no-tasks] [MODEL ...]

A MODEL is one of the zoo or of ``narrow_nets.py``. SQNR is the power of float32's results (ONNX Runtime without optimisation) over
that of their difference, in dB, over some inputs of the zoo: photographs, lines of text, speech. The peers run the same file;
both keep what float32 kernels hand to one another unrounded. ONNX Runtime has no kernels for bfloat16 on CPUs.
The two tasks are handwritten digits, and lines of text that PP-OCR reads.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from narrow_nets import NETS
from narrow_types import source
from report import Report, listed, number
from text_lines import Images, alphabet_of, error_rate, text_lines
from zoo import DEFAULT

import graphopt
from graphopt.models import zoo

Arrays = Mapping[str, np.ndarray[Any, Any]]
KINDS = ("fp16", "bf16")
LINES, LINES_AT_ONCE = 500, 25


def session(model: bytes) -> ort.InferenceSession:
    """ONNX Runtime without optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def by_onnxruntime(model: bytes, feeds: Sequence[Arrays]) -> list[Arrays]:
    """All outputs by name, a mapping a feed."""
    runtime = session(model)
    names = [o.name for o in runtime.get_outputs()]
    wanted = [i.name for i in runtime.get_inputs()]
    return [dict(zip(names, runtime.run(names, {n: feed[n] for n in wanted}), strict=True)) for feed in feeds]


def by_openvino(model: bytes, feeds: Sequence[Arrays]) -> list[Arrays]:
    """The same by OpenVINO, told to compute in float32."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model)
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [o.get_any_name() for o in compiled.outputs]
    found = []
    for feed in feeds:
        results = compiled({i.get_any_name(): feed[i.get_any_name()] for i in compiled.inputs})
        found.append(dict(zip(names, (np.array(results[o]) for o in compiled.outputs), strict=True)))
    return found


def sqnr(found: Sequence[Arrays], want: Sequence[Arrays]) -> float:
    """In dB; that of the worst output. Minus infinity where something isn't finite that is in float32."""
    worst = np.inf
    for name in (n for n, a in want[0].items() if a.dtype.kind == "f"):
        wide, narrow = (
            np.concatenate([run[name].astype(np.float64).ravel() for run in runs]) for runs in (want, found)
        )
        if (np.isfinite(wide) & ~np.isfinite(narrow)).any():
            return -np.inf
        noise = float(((wide - narrow) ** 2).sum())
        worst = min(worst, np.inf if noise == 0 else 10 * np.log10(float((wide**2).sum()) / noise))
    return worst


def feeds_of(name: str, samples: int) -> tuple[bytes, list[Arrays]]:
    """The model in float32 with fixed shapes, and inputs."""
    model, feed = source(name)
    shapes = {n: a.shape for n, a in feed.items()}
    feeds: list[Arrays] = [feed]
    for i in range(1, samples):
        if name in NETS:
            rng = np.random.default_rng(1 + i)
            feeds.append({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})
        else:
            feeds.append(zoo.get(name).inputs(i))
    return model.SerializeToString(), feeds


def row_of(name: str, samples: int, refused: list[str]) -> list[str]:
    """The cells of one model."""
    model, feeds = feeds_of(name, samples)
    want = by_onnxruntime(model, feeds)
    cells, sizes, artefacts = [], [], []
    wide = graphopt.compile(model, "native")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gopt")
        wide.save(path)
        artefacts.append(path.stat().st_size)
        for kind in KINDS:
            graph, report = graphopt.convert(model, precision=kind)
            narrow = graphopt.export_onnx(graph).SerializeToString()
            compiled = graphopt.compile(narrow, "native")
            found: list[Arrays] = [compiled.run({s.name: feed[s.name] for s in compiled.inputs}) for feed in feeds]
            cells.append(number(sqnr(found, want), 1))
            for peer, by in (("ONNX Runtime", by_onnxruntime), ("OpenVINO", by_openvino)):
                if kind == "bf16" and peer == "ONNX Runtime":
                    continue
                try:
                    cells.append(number(sqnr(by(narrow, feeds), want), 1))
                except Exception as error:  # of any class: the peer's refusal is a result
                    cells.append("refused")
                    refused.append(f"{name} in {kind} by {peer}: {str(error).strip().splitlines()[0][:100]}")
            compiled.save(path)
            artefacts.append(path.stat().st_size)
            sizes += [report.bytes_before, report.bytes_after] if not sizes else []
    return [*cells, *(f"{size / 1e6:.1f}" for size in (*sizes, *artefacts))]


def tasks() -> Iterator[str]:
    """What becomes of two tasks."""
    images, labels = zoo.digits_test()
    graph = graphopt.import_onnx(zoo.get("digits").path(), shapes={"image": "Nx1x8x8"})
    right = {}
    for kind in (None, *KINDS):
        compiled = graphopt.compile(graph, "native", precision=kind)
        right[kind or "float32"] = int((compiled.run({"image": images})["logits"].argmax(1) == labels).sum())
    yield f"Digits, of {len(labels)} test images: " + ", ".join(f"{n} right in {k}" for k, n in right.items()) + "."
    lines, texts = text_lines(0, LINES)
    model = zoo.get("ppocr_rec")
    alphabet = alphabet_of(model.proto())
    (name,) = (v.name for v in model.proto().graph.input)
    graph = graphopt.import_onnx(model.path(), shapes={name: (LINES_AT_ONCE, *lines.shape[1:])})
    rates = {}
    for kind in (None, *KINDS):
        compiled = graphopt.compile(graph, "native", precision=kind)

        def run(x: Images, compiled: graphopt.CompiledModel = compiled) -> Images:
            (scores,) = compiled.run({name: x}).values()
            return scores

        rates[kind or "float32"] = error_rate(run, lines, texts, alphabet, LINES_AT_ONCE)
    yield (
        f"PP-OCR, character error rate on {LINES} lines: "
        + ", ".join(f"{r:.2f}% in {k}" for k, r in rates.items())
        + "."
    )


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[*DEFAULT, "bert_tiny", "mobilenet_v2", "bert_base", "vit_small"])
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--no-tasks", action="store_true")
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    report = Report(
        "16 bits against float32: accuracy",
        "Signal to quantisation noise in dB, of the worst output of each model; constants and "
        "artefacts (machine code, packed weights) in MB. Inputs and outputs stay float32; OpenVINO computes in float32.",
    )
    report.head(
        "model",
        "fp16",
        "ONNX Runtime",
        "OpenVINO",
        "bf16",
        "OpenVINO",
        "constants",
        "in 16 bits",
        "artefact",
        "in fp16",
        "in bf16",
    )
    refused: list[str] = []
    for name in args.models:
        report.row(name, *row_of(name, args.samples, refused))
    if refused:
        report.add("", f"Refused: {listed(refused)}.")
    if not args.no_tasks:
        report.add("", *tasks())
    report.write(args.write)


if __name__ == "__main__":
    main()

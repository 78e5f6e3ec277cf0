"""What 8-bit integers cost in accuracy: models quantized here, by ONNX Runtime and by NNCF on the same data, against float.

    python benchmarks/quantization.py [--write FILE] [--calibration N] [--samples N] [--sets N] [--nncf-python PYTHON] [--no-task]
        [MODEL ...]

A MODEL is one of the zoo. SQNR is the power of float's results over that of their difference, in dB, of the worst output, over
inputs that were not calibrated on. ONNX Runtime without optimisation runs float and every quantized file, so that only the files
are compared. Shown are default settings and the best of three named settings of each. Figures of some models depend by 2 dB and
more on the inputs that they were calibrated on; with ``--sets`` they are averages over so many sets of these. NNCF has an
environment of its own, since it may want other versions of packages: ``python -m venv nncf; nncf/bin/pip install nncf onnx
onnxruntime``, then ``--nncf-python nncf/bin/python``.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from precision import Arrays, by_onnxruntime, session, sqnr
from report import Report, listed, number, plural
from text_lines import Images, alphabet_of, error_rate, text_lines

import graphopt
from graphopt.models import zoo

DEFAULT = (
    "squeezenet", "mobilenet_v2", "opennsfw", "nudenet", "ppocr_cls", "vit_tiny", "bert_tiny", "digits", "shufflenet",
    "silero_vad_openvino_16k",
)  # fmt: skip
METHODS = ("mse", "minmax", "percentile")
OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "corrected bias": {"correct_bias": True},
    "percentile, corrected bias": {"method": "percentile", "correct_bias": True},
}
LINES, CALIBRATION_LINES = 500, 32
PER_CHANNEL = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
ONNXRUNTIME: dict[str, dict[str, Any]] = {
    "default": {},
    "per channel": PER_CHANNEL,
    "per channel, percentile": {**PER_CHANNEL, "calibrate_method": CalibrationMethod.Percentile},
}
NNCF = ("default", "mixed, accurate bias", "mixed, percentile")
"""Settings that `nncf_quantize.py` knows."""
TRANSFORMERS = ("vit_tiny", "bert_tiny")
"""Models whose type NNCF is told, its default settings aside."""


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds one after the other."""

    def __init__(self, feeds: Sequence[Arrays]) -> None:
        self.left = iter(feeds)

    def get_next(self) -> Arrays | None:
        """The next feed."""
        return next(self.left, None)


def by_graphopt(model: onnx.ModelProto, feeds: Sequence[Arrays], options: dict[str, Any]) -> bytes:
    """What ``graphopt.quantize`` makes of a model."""
    shapes = {name: array.shape for name, array in feeds[0].items()}
    graph, _ = graphopt.quantize(model, feeds, compare=False, shapes=shapes, **options)
    return graphopt.export_onnx(graph).SerializeToString()


def by_onnxruntime_quantizer(model: onnx.ModelProto, feeds: Sequence[Arrays], options: dict[str, Any]) -> bytes:
    """What ``quantize_static`` makes of a model, pre-processed as its manual says."""
    with tempfile.TemporaryDirectory() as folder:
        source, ready, done = (str(Path(folder, name)) for name in ("model.onnx", "ready.onnx", "done.onnx"))
        onnx.save_model(model, source)
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        quantize_static(ready, done, Reader(feeds), quant_format=QuantFormat.QDQ, **options)
        return Path(done).read_bytes()


def by_nncf(python: Path, model: onnx.ModelProto, feeds: Sequence[Arrays], settings: str) -> bytes:
    """What NNCF makes of a model in an environment of its own.

    Raises:
        RuntimeError: it failed; with the last line of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, data, done = (str(Path(folder, name)) for name in ("model.onnx", "feeds.npz", "done.onnx"))
        onnx.save_model(model, source)
        arrays: dict[str, Any] = {f"{i} {n}": array for i, feed in enumerate(feeds) for n, array in feed.items()}
        np.savez(data, **arrays)
        command = [str(python), str(Path(__file__).with_name("nncf_quantize.py")), source, data, done, settings]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError((ran.stderr.strip() or "no message").splitlines()[-1])
        return Path(done).read_bytes()


def version_of_nncf(python: Path) -> str:
    """The version that an environment has."""
    code = "from importlib.metadata import version; print(version('nncf'))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def best(found: dict[str, float]) -> str:
    """The best figure with the name of its settings."""
    if not found:
        return "refused"
    name = max(found, key=lambda key: found[key])
    return f"{number(found[name], 1)} ({name})"


def calibrated(name: str, calibration: int, samples: int) -> tuple[onnx.ModelProto, list[Arrays], list[Arrays]]:
    """A model of the zoo in an opset that has scales along an axis, inputs to calibrate it on, and others to compare on."""
    entry = zoo.get(name)
    feeds: list[Arrays] = [entry.inputs(i) for i in range(calibration + samples)]
    model = entry.proto()
    if model.opset_import[0].version < 13:
        model = version_converter.convert_version(model, 17)
    return model, feeds[:calibration], feeds[calibration:]


def row_of(name: str, sizes: tuple[int, int, int], nncf: Path | None, refused: list[str]) -> list[str]:
    """The cells of one model.

    Args:
        sizes: numbers of inputs to calibrate on and to compare on, and of sets of the former.
        nncf: Python that has it; None leaves its cells out.
        refused: told what a peer can't quantize.
    """
    calibration, samples, count = sizes
    model, data, tried = calibrated(name, calibration, samples)
    sets = [data] + [[zoo.get(name).inputs(1000 * k + i) for i in range(calibration)] for k in range(1, count)]
    want = by_onnxruntime(model.SerializeToString(), tried)
    makers: dict[str, dict[str, Callable[[Sequence[Arrays]], bytes]]] = {
        "graphopt": {n: partial(by_graphopt, model, options=options) for n, options in OURS.items()},
        "ONNX Runtime": {n: partial(by_onnxruntime_quantizer, model, options=o) for n, o in ONNXRUNTIME.items()},
    }
    if nncf is not None:
        told = ", for a transformer" if name in TRANSFORMERS else ""
        named = {n: n if n == "default" else n + told for n in NNCF}
        makers["NNCF"] = {n: partial(by_nncf, nncf, model, settings=settings) for n, settings in named.items()}
    cells, size = [], 0
    for tool, settings in makers.items():
        found = {}
        for label, make in settings.items():
            try:
                files = [make(data) for data in sets]
                found[label] = sum(sqnr(by_onnxruntime(file, tried), want) for file in files) / len(files)
            except Exception as error:  # of any class: a peer's refusal is a result
                if tool == "graphopt":
                    raise
                refused.append(f"{name} by {tool} ({label}): {str(error).strip().splitlines()[0][:140]}")
                continue
            size = size or len(files[0])
        cells += [number(found["default"], 1) if "default" in found else "refused", best(found)]
    return [*cells, f"{size / len(model.SerializeToString()):.2f}"]


def task() -> Iterator[str]:
    """Digits that are read right."""
    images, labels = zoo.digits_test()
    model = onnx.load_model(zoo.get("digits").path())
    right = {}
    for method in (None, *METHODS):
        graph = graphopt.import_onnx(model)
        if method is not None:
            graph, _ = graphopt.quantize(graph, {"image": images[:100]}, method=method, compare=False)
        (scores,) = session(graphopt.export_onnx(graph).SerializeToString()).run(None, {"image": images})
        right[method or "float"] = int((scores.argmax(1) == labels).sum())
    yield f"Digits, of {len(labels)} test images: " + ", ".join(f"{n} right in {k}" for k, n in right.items()) + "."


def text_task() -> Iterator[str]:
    """Lines of text that PP-OCR reads, compiled to integers, ranges from other lines."""
    lines, texts = text_lines(0, LINES)
    others, _ = text_lines(1, CALIBRATION_LINES)
    model = zoo.get("ppocr_rec")
    alphabet = alphabet_of(model.proto())
    (name,) = (v.name for v in model.proto().graph.input)
    rates = {}
    for method in (None, *METHODS):
        graph = graphopt.import_onnx(model.path(), shapes={name: (1, *lines.shape[1:])})
        if method is not None:
            graph, _ = graphopt.quantize(graph, [{name: x[None]} for x in others], method=method, compare=False)
        compiled = graphopt.compile(graph, "native")

        def run(x: Images, compiled: graphopt.CompiledModel = compiled) -> Images:
            (scores,) = compiled.run({name: x}).values()
            return scores

        rates[method or "float"] = error_rate(run, lines, texts, alphabet, 1)
    yield (
        f"PP-OCR, character error rate on {LINES} lines: "
        + ", ".join(f"{r:.2f}% in {k}" for k, r in rates.items())
        + "."
    )


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--calibration", type=int, default=8)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--sets", type=int, default=1)
    parser.add_argument("--nncf-python", type=Path)
    parser.add_argument("--no-task", action="store_true")
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    logging.disable(logging.WARNING)
    report = Report(
        "8-bit integers against float: accuracy",
        f"Signal to quantisation noise in dB of the worst output, on {args.samples} inputs after {args.calibration} others for "
        f"calibration, averages over {plural(args.sets, 'set')} of these; ONNX Runtime without optimisation runs all. Size is "
        "that of our file over float's.",
    )
    head = ["graphopt", "best of three", "quantize_static", "best of three"]
    report.head("model", *head, *(() if args.nncf_python is None else ("NNCF", "best of three")), "size")
    refused: list[str] = []
    for name in args.models:
        report.row(name, *row_of(name, (args.calibration, args.samples, args.sets), args.nncf_python, refused))
    if args.nncf_python is None:
        report.add("", "NNCF isn't compared: no environment that has it was named (--nncf-python).")
    else:
        report.add("", f"NNCF {version_of_nncf(args.nncf_python)}.")
    if refused:
        report.add("", f"Refused: {listed(refused)}.")
    if not args.no_task:
        report.add("", *task(), *text_task())
    report.write(args.write)


if __name__ == "__main__":
    main()

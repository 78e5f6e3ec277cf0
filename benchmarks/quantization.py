"""What 8-bit integers cost in accuracy: models quantized here and by ONNX Runtime on the same data, against float.

    python benchmarks/quantization.py [--write FILE] [--calibration N] [--samples N] [--no-task] [MODEL ...]

A MODEL is one of the zoo. SQNR is the power of float's results over that of their difference, in dB, of the worst output, over
inputs that were not calibrated on. ONNX Runtime without optimisation runs float and every quantized file, so that only the files
are compared. Shown are default settings and the best of three named settings of each.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from precision import Arrays, by_onnxruntime, session, sqnr
from report import Report, number
from text_lines import Images, alphabet_of, error_rate, text_lines

import graphopt
from graphopt.models import zoo

DEFAULT = ("squeezenet", "mobilenet_v2", "opennsfw", "nudenet", "ppocr_cls", "vit_tiny", "bert_tiny")
OURS = ("minmax", "percentile", "mse")
LINES, CALIBRATION_LINES = 500, 32
PER_CHANNEL = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
PEER: dict[str, dict[str, Any]] = {
    "default": {},
    "per channel": PER_CHANNEL,
    "per channel, percentile": {**PER_CHANNEL, "calibrate_method": CalibrationMethod.Percentile},
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds one after the other."""

    def __init__(self, feeds: Sequence[Arrays]) -> None:
        self.left = iter(feeds)

    def get_next(self) -> Arrays | None:
        """The next feed."""
        return next(self.left, None)


def by_peer(model: onnx.ModelProto, feeds: Sequence[Arrays], options: dict[str, Any]) -> bytes:
    """What ``quantize_static`` makes of a model, pre-processed as its manual says."""
    with tempfile.TemporaryDirectory() as folder:
        source, ready, done = (str(Path(folder, name)) for name in ("model.onnx", "ready.onnx", "done.onnx"))
        onnx.save_model(model, source)
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        quantize_static(ready, done, Reader(feeds), quant_format=QuantFormat.QDQ, **options)
        return Path(done).read_bytes()


def best(found: dict[str, float]) -> str:
    """The best figure with the name of its settings."""
    name = max(found, key=lambda key: found[key])
    return f"{number(found[name], 1)} ({name})"


def row_of(name: str, calibration: int, samples: int) -> list[str]:
    """The cells of one model."""
    entry = zoo.get(name)
    feeds = [entry.inputs(i) for i in range(calibration + samples)]
    data, tried = feeds[:calibration], feeds[calibration:]
    model = entry.proto()
    if model.opset_import[0].version < 13:  # scales along an axis
        model = version_converter.convert_version(model, 17)
    want = by_onnxruntime(model.SerializeToString(), tried)
    ours, peers, sizes = {}, {}, []
    shapes = {n: a.shape for n, a in feeds[0].items()}
    for method in OURS:
        graph, _ = graphopt.quantize(model, data, method=method, compare=False, shapes=shapes)
        quantized = graphopt.export_onnx(graph).SerializeToString()
        ours[method] = sqnr(by_onnxruntime(quantized, tried), want)
        sizes.append(len(quantized) / len(model.SerializeToString()))
    for label, options in PEER.items():
        try:
            peers[label] = sqnr(by_onnxruntime(by_peer(model, data, options), tried), want)
        except Exception:  # of any class: the peer's refusal is a result
            peers[label] = float("-inf")
    return [number(ours["minmax"], 1), best(ours), number(peers["default"], 1), best(peers), f"{sizes[0]:.2f}"]


def task() -> Iterator[str]:
    """Digits that are read right."""
    images, labels = zoo.digits_test()
    model = onnx.load_model(zoo.get("digits").path())
    right = {}
    for method in (None, *OURS):
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
    for method in (None, *OURS):
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
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--no-task", action="store_true")
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    logging.disable(logging.WARNING)
    report = Report(
        "8-bit integers against float: accuracy",
        f"Signal to quantisation noise in dB of the worst output, on {args.samples} inputs after {args.calibration} others for "
        "calibration; ONNX Runtime without optimisation runs all. Size is that of our file over float's.",
    )
    report.head("model", "graphopt", "best of three", "quantize_static", "best of three", "size")
    for name in args.models:
        report.row(name, *row_of(name, args.calibration, args.samples))
    if not args.no_task:
        report.add("", *task(), *text_task())
    report.write(args.write)


if __name__ == "__main__":
    main()

"""What float16 arithmetic on ARM costs in accuracy: models under emulation on photographs, against float32.

    python benchmarks/arm_fp16.py [--inputs N] [--target T] [--cpu CPU] [--write FILE] [MODEL ...]

SQNR is the power of float32's results (ONNX Runtime without optimisation) over that of their difference, in dB, of all inputs
together and of the worst one. Storage alone is the same model for the machine at hand, if that computes in float32 as x86 does.
Needs Debian's qemu-user and g++-aarch64-linux-gnu, and the pictures that ``photographs.py`` names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from arm_ours import TIMEOUT_S, compile_for
from arm_subjects import BERT, MOBILENET, subject
from arm_sysroot import CPUS
from photographs import photographs
from precision import Arrays, by_onnxruntime, sqnr
from report import Report, number

import graphopt
from graphopt.models import zoo
from tests.support import qemu

TRAINED = ("digits", "ppocr_cls", "ppocr_rec", "ppocr_det", "opennsfw", "nudenet")
RANDOM = ("squeezenet", MOBILENET, "vit_tiny")
_WITHOUT_PICTURES = ("digits", BERT, "bert_tiny")


def feeds_of(name: str, count: int) -> list[Arrays]:
    """Photographs, or what the zoo makes for a model that takes none."""
    if name in _WITHOUT_PICTURES:
        return [subject(name).feed] if name == BERT else [zoo.get(name).inputs(seed) for seed in range(count)]
    return list(photographs(name, count))


def emulated(model: graphopt.CompiledModel, feeds: Sequence[Arrays], cpu: str) -> list[Arrays]:
    """Outputs under qemu."""
    assert model.built is not None
    library = model.built.library_bytes()
    outputs = [(tuple(int(d) for d in spec.shape), spec.dtype.numpy) for spec in model.outputs]  # type: ignore[arg-type]
    found: list[Arrays] = []
    for feed in feeds:
        inputs = [feed[spec.name] for spec in model.inputs]
        arrays = qemu.run_under_qemu(
            library, inputs, outputs, cpu=CPUS[cpu].emulated, constants=model.constants, timeout=TIMEOUT_S
        )
        found.append({spec.name: array for spec, array in zip(model.outputs, arrays, strict=True)})
    return found


def row_of(name: str, count: int, target: str, cpu: str) -> list[str]:
    """The cells of one model."""
    path, feeds = subject(name).path, feeds_of(name, count)
    want = by_onnxruntime(path.read_bytes(), feeds)
    feed = {key: np.asarray(array) for key, array in feeds[0].items()}
    cells = [str(len(feeds))]
    for compiled in (compile_for(path, feed, target, "fp16"), compile_for(path, feed, "native", "fp16")):
        if compiled.target.triple.startswith("aarch64"):
            found = emulated(compiled, feeds, cpu)
            shown = [{key: run[key] for key in want[0]} for run in found]
            finite = all(np.isfinite(array).all() for run in shown for array in run.values() if array.dtype.kind == "f")
        else:
            shown = [{key: np.asarray(array) for key, array in compiled.run(dict(run)).items()} for run in feeds]
        each = [sqnr([run], [wanted]) for run, wanted in zip(shown, want, strict=True)]
        cells += [number(sqnr(shown, want), 1), number(min(each), 1)]
    return [*cells, "yes" if finite else "no"]


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[*TRAINED, *RANDOM])
    parser.add_argument("--inputs", type=int, default=4)
    parser.add_argument("--target", default="arm:neoverse-n1")
    parser.add_argument("--cpu", default="neoverse-n1", choices=CPUS, help="what runs it under qemu")
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    report = Report(
        f"float16 arithmetic on {args.target}: accuracy on photographs",
        "Signal to noise in dB against float32 by ONNX Runtime without optimisation, "
        f"run under qemu-aarch64 -cpu {args.cpu}; pictures of scikit-image and scikit-learn, one inference each. "
        "Storage alone: the same model on this machine, where weights are float16 and arithmetic is float32. "
        f"Weights are trained but for {', '.join(RANDOM)}.",
    )
    report.head("model", "inputs", "all, dB", "worst, dB", "storage alone: all", "worst", "finite")
    for name in args.models:
        report.row(name, *row_of(name, args.inputs, args.target, args.cpu))
        print(f"{name}: measured", file=sys.stderr, flush=True)
    report.write(args.write)


if __name__ == "__main__":
    main()

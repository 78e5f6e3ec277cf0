"""How runtimes agree on files that graphopt quantized: ONNX Runtime, OpenVINO and graphopt's own kernels against exact arithmetic.

    python benchmarks/quantized_agreement.py [--write FILE] [--calibration N] [--samples N] [MODEL ...]

A MODEL is one of the zoo. ONNX Runtime without optimisation is the measure: it runs a file node by node as ONNX defines it, where
the other three fuse integers. Two right computations still differ: where a float lies between two integers its last bit decides,
and the layers behind hand that on; so the noise of the file itself against float stands beside the differences, and whether
graphopt's integers are right, each tensor computed from the same integers before it (ADR 23).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from precision import Arrays, by_onnxruntime, by_openvino, sqnr
from quantization import DEFAULT, by_graphopt, calibrated
from report import Report, listed, number

import graphopt
from graphopt.driver.checking import check_model

MODELS = (*DEFAULT, "ppocr_rec")


def by_optimised_onnxruntime(model: bytes, feeds: Sequence[Arrays]) -> list[Arrays]:
    """All outputs by name, with ONNX Runtime's integer kernels."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    runtime = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names, wanted = ([v.name for v in values] for values in (runtime.get_outputs(), runtime.get_inputs()))
    return [dict(zip(names, runtime.run(names, {n: feed[n] for n in wanted}), strict=True)) for feed in feeds]


def by_compiled(model: bytes, feeds: Sequence[Arrays]) -> list[Arrays]:
    """The same, compiled by graphopt for this machine."""
    compiled = graphopt.compile(model, "native")
    return [compiled.run({spec.name: feed[spec.name] for spec in compiled.inputs}) for feed in feeds]


RUNTIMES: dict[str, Callable[[bytes, Sequence[Arrays]], list[Arrays]]] = {
    "graphopt": by_compiled, "ONNX Runtime": by_optimised_onnxruntime, "OpenVINO": by_openvino,
}  # fmt: skip


def steps_of(model: onnx.ModelProto, exact: Sequence[Arrays]) -> dict[str, float]:
    """By output, the distance of two neighbouring integers: the scale of the DequantizeLinear that gives it. The outputs of most
    files are float; for these it is what it would be with 255 steps in the range of the exact results."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for name in exact[0]:
        node = makers.get(name)
        if node is not None and node.op_type == "DequantizeLinear" and node.input[1] in constants:
            found[name] = float(numpy_helper.to_array(constants[node.input[1]]).max())
        else:
            numbers = np.concatenate([run[name].astype(np.float64).ravel() for run in exact])
            found[name] = (max(float(numbers.max()), 0.0) - min(float(numbers.min()), 0.0)) / 255 or 1.0
    return found


def largest_steps(found: Sequence[Arrays], exact: Sequence[Arrays], steps: dict[str, float]) -> float:
    """The largest difference of any element of any output, in steps."""
    return max(
        float(np.abs(a[name].astype(np.float64) - b[name]).max(initial=0.0)) / step
        for name, step in steps.items()
        for a, b in zip(found, exact, strict=True)
    )


def row_of(name: str, calibration: int, samples: int, refused: list[str]) -> list[str]:
    """The cells of one model.

    Args:
        refused: told what a runtime can't load.
    """
    model, data, tried = calibrated(name, calibration, samples)
    file = by_graphopt(model, data, {})
    exact = by_onnxruntime(file, tried)
    steps = steps_of(onnx.load_from_string(file), exact)
    cells: list[Any] = [number(sqnr(exact, by_onnxruntime(model.SerializeToString(), tried)), 1)]
    for runtime, run in RUNTIMES.items():
        try:
            found = [
                dict(zip(exact[0], results.values(), strict=True)) for results in run(file, tried)
            ]  # names may be aliases
        except Exception as error:  # of any class: a refusal is a result
            refused.append(f"{name} by {runtime}: {(str(error).strip() or type(error).__name__).splitlines()[0][:140]}")
            cells += ["refused", ""]
            continue
        agreement = sqnr(found, exact)
        cells += [
            "equal" if np.isposinf(agreement) else number(agreement, 1), number(largest_steps(found, exact, steps), 2),
        ]  # fmt: skip
    checked = check_model(file, feed=tried[0])
    return [*cells, f"right, {checked.ties} at ties" if checked.ok else "differ"]


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--calibration", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    logging.disable(logging.WARNING)
    report = Report(
        "Quantized files in different runtimes: agreement",
        f"Files that graphopt quantized by default, {args.samples} inputs after {args.calibration} others for calibration. File: "
        "signal to noise in dB of the file against float, both in ONNX Runtime without optimisation, which is exact. Then for each "
        "runtime the same of its results against that exact run of the file, worst output, and the largest difference in steps: "
        "of the output's own DequantizeLinear where it has one, else 255 steps for the range of the output. At last whether all "
        "integers that graphopt computes are right, on one input, each tensor from the same integers before it; where a float lies "
        "between two within its rounding error, both are, and these are counted.",
    )
    report.head("model", "file", *(cell for name in RUNTIMES for cell in (name, "steps")), "graphopt's integers")
    refused: list[str] = []
    for name in args.models:
        report.row(name, *row_of(name, args.calibration, args.samples, refused))
    report.add("", f"Refused: {listed(refused)}.")
    report.write(args.write)


if __name__ == "__main__":
    main()

"""Accuracy of the digit classifier with zeros in its weights, as they are and with the other weights set anew.

python benchmarks/sparsity_accuracy.py [--write FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from report import Report, number

import graphopt
from graphopt.driver.compiling import compile as compile_model
from graphopt.driver.sparsity import sparsify
from graphopt.ir.graph import Graph
from graphopt.models import zoo

ZEROS = (*(f"{p}%" for p in (20, 30, 50, 60, 70, 80, 90)), "2:4", "4:8", "1:4")
CALIBRATION_IMAGES = 128
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("magnitude", {"reconstruct": False}),
    ("+ least squares", {}),
    ("global", {"scope": "global", "reconstruct": False}),
    ("+ least squares", {"scope": "global"}),
    ("Wanda", {"method": "wanda", "reconstruct": False}),
    ("+ least squares", {"method": "wanda"}),
    ("magnitude, first layer too", {"depthwise": True, "reconstruct": False}),
)


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    images, labels = zoo.digits_test()
    graph = graphopt.import_onnx(zoo.get("digits").path(), shapes={"image": "Nx1x8x8"})
    calibration = {"image": images[:CALIBRATION_IMAGES]}
    seen, wanted = images[CALIBRATION_IMAGES:], labels[CALIBRATION_IMAGES:]

    def correct(made: Graph) -> str:
        found = compile_model(made, "native", threads=1).run({"image": seen})["logits"].argmax(1)
        return number(100 * float((found == wanted).mean()), 1)

    report = Report(
        "Accuracy of digits with zeros in its weights",
        f"Percent correct of {len(seen)} test images; the other {CALIBRATION_IMAGES} are calibration data, without their labels. "
        f"Nothing is trained. The dense model has {correct(graph)}. The last column also thins the first layer, which reads one "
        "channel and is left alone by default; patterns can't touch it.",
    )
    report.head("zeros", *(label for label, _ in WAYS))
    for label in ZEROS:
        request: dict[str, Any] = {"pattern": label} if ":" in label else {"ratio": float(label[:-1]) / 100}
        cells = []
        for _, way in WAYS:
            if ":" in label and {"scope", "depthwise"} & way.keys():
                cells.append("")
                continue
            cells.append(
                correct(sparsify(graph, compiled=False, calibration=calibration, threads=1, **request, **way)[0])
            )
        report.row(label, *cells)
    report.write(args.write)


if __name__ == "__main__":
    main()

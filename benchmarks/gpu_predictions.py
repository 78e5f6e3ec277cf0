"""What the cost models of GPUs predict for whole models, layer by layer. Predictions, not measurements: no GPU is needed or used.

For each kernel: predicted time on the part that stands for a compute capability (`graphopt/backends/cuda/cost/chips.py`), percent
of the tensor cores' rate and of the memory's, and which of both bounds it from below. Layers whose products at full rate take
longer than their bytes at full bandwidth are bound by products. Shares are of the time between a kernel's beginning and end; times
hold the launch as well.

    python benchmarks/gpu_predictions.py resnet50 --batch 1 --batch 32 --arch sm_80 --arch sm_90 --precision fp16
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import onnx
from report import Report

from graphopt.backends.cuda.cost.chips import Chip, chip_of
from graphopt.backends.cuda.cost.gemm import LAUNCH_SECONDS
from graphopt.backends.program.program import KernelStep, Program
from graphopt.backends.targets.grammar import parse_target
from graphopt.driver.compiling import to_program
from graphopt.models import zoo

REPORT = Path(__file__).parent / "reports" / "gpu-predictions.md"


def program_of(name: str, arch: str, batch: int, precision: str | None) -> Program:
    """A model compiled for a batch, or a file as it is."""
    if Path(name).exists():
        return to_program(Path(name), f"cuda:{arch}", precision=precision)[2]
    model = zoo.get(name)
    shapes = {key: (batch, *shape[1:]) for key, shape in dict(model.shapes).items()}
    proto = model.proto()
    for value in proto.graph.input:
        first = value.type.tensor_type.shape.dim[0]
        if value.name not in shapes and first.dim_value == 1:
            first.dim_value = batch
    for constant in proto.graph.initializer:  # what they are reshaped to
        if constant.data_type == onnx.TensorProto.INT64 and list(constant.dims) == [2]:
            elements = onnx.numpy_helper.to_array(constant)
            if elements[0] == 1:
                constant.CopyFrom(onnx.numpy_helper.from_array(elements * [0, 1] + [batch, 0], constant.name))
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return to_program(proto, f"cuda:{arch}", shapes=shapes or None, precision=precision)[2]


def rate_of(step: KernelStep, chip: Chip) -> float:
    """Multiply-adds a second of the whole part in the way in which a kernel multiplies; 0 for kernels that don't."""
    product = step.config.partition("product='")[2].partition("'")[0]
    return chip.rate(product) * chip.multiprocessors * chip.clock if product else 0.0


def rows(program: Program, chip: Chip) -> tuple[list[list[str]], float, list[float]]:
    """A table row a kernel, predicted seconds of all, and the shares of the rate of layers bound by products."""
    table, total, shares = [], 0.0, []
    for step in program.steps:
        if not isinstance(step, KernelStep):
            continue
        rate, moved = rate_of(step, chip), (step.bytes or 0) / chip.memory
        products = (step.flops or 0) / 2 / rate if rate else 0.0
        seconds = step.seconds if step.seconds is not None else moved + LAUNCH_SECONDS
        total += seconds
        bound, busy = "products" if products > moved else "memory", seconds - LAUNCH_SECONDS
        if bound == "products":
            shares.append(products / busy)
        table.append(
            [
                step.label[:40],
                step.template,
                step.config[step.config.find("(") + 1 : -1].replace("product=", "").replace("block_", "").replace("warp_", "w_"),
                f"{1e6 * seconds:.1f}",
                bound,
                f"{100 * products / busy:.0f}%" if products else "",
                f"{100 * moved / busy:.0f}%",
            ]
        )  # fmt: skip
    return table, total, shares


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="zoo models or ONNX files")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--arch", action="append")
    parser.add_argument("--precision", default=None)
    parser.add_argument("--layers", action="store_true", help="a table of all layers")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    report = Report(
        "Predictions for GPUs",
        "Times and shares are those of the cost models (`graphopt/backends/cuda/cost`): predictions, not measurements.",
    )
    head = ("kernel", "template", "tiles", "us", "bound by", "of the products' rate", "of memory's")
    summary, details = [], []
    for model in options.models:
        for arch in options.arch or ["sm_80", "sm_89", "sm_90"]:
            chip = chip_of(parse_target(f"cuda:{arch}").caps)
            for batch in options.batch or [1, 32]:
                table, total, shares = rows(program_of(model, arch, batch, options.precision), chip)
                over = sum(s >= 0.6 for s in shares)
                name, type_ = Path(model).stem, options.precision or "fp32 (tf32)"
                figures = f"{1e3 * total:.2f}", f"{over} of {len(shares)}", f"{100 * min(shares, default=0):.0f}%"
                summary.append((name, type_, chip.name, batch, len(table), *figures))
                details.append((f"{name}, {type_}, batch {batch}, {chip.name}", table))
    report.head("model", "type", "part", "batch", "launches", "ms", "bound by products, at 60% of their rate", "least")
    for line in summary:
        report.row(*line)
    for title, table in details if options.layers else ():
        report.add("", f"## {title}", "")
        report.head(*head)
        for line in table:
            report.row(*line)
    report.write(options.report)


if __name__ == "__main__":
    main()

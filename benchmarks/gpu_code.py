"""Machine code for GPUs, looked at without one: what is on tensor cores, what spills, and how long compiling takes.

For each model and architecture: kernels, those with spills, layers that suit tensor cores (convolutions and products of matrices
with 8 or more channels a group and 16 or more rows, columns and products in a sum) and how many of them have instructions of tensor
cores in their machine code, as ``nvdisasm`` (pip install nvidia-cuda-nvdisasm) shows it; with ``--timed``
seconds from the model to machine code with an empty cache, and from the filled one.

    python benchmarks/gpu_code.py resnet50 bert_tiny --precision fp16
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from report import Report

from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.cuda.disassembly import kernels_in
from graphopt.backends.cuda.machine_code import machine_code
from graphopt.backends.cuda.pack import cuda_source
from graphopt.backends.program.program import KernelStep
from graphopt.backends.targets.compilation import build_program
from graphopt.driver.compiling import to_program
from graphopt.ir.graph import Node
from graphopt.models import zoo
from graphopt.ops.context import attr

REPORT = Path(__file__).parent / "reports" / "gpu-code.md"
ARCHES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")
FEWEST_CHANNELS, FEWEST = 8, 16


def suits_tensor_cores(node: Node) -> bool:
    """Whether a layer has channels, rows, columns and products enough; dimensions that are symbolic count as enough."""
    if node.domain or node.op not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return False
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None
    assert weight is not None
    sizes = [d if isinstance(d, int) else FEWEST for d in node.out.shape]
    if node.op in ("Conv", "ConvTranspose"):
        groups = int(attr(node, "group") or 1)
        channels = [int(d) // groups for d in (data.shape[1], node.out.shape[1])]  # type: ignore[arg-type]
        depth = channels[0]
        for extent in weight.shape[2:]:
            depth *= int(extent)  # type: ignore[arg-type]
        rows = 1
        for size in (sizes[0], *sizes[2:]):
            rows *= size
        return min(channels) >= FEWEST_CHANNELS and min(rows, channels[1], depth) >= FEWEST
    depth_of = data.shape[-2 if node.op == "Gemm" and attr(node, "transA") else -1]
    depth = depth_of if isinstance(depth_of, int) else FEWEST
    rows = 1
    for size in sizes[:-1]:
        rows *= size
    return min(rows, sizes[-1], depth) >= FEWEST


def suitable_functions(fused: Any, program: Any) -> Iterator[tuple[str, str]]:
    """Node and function of the layers that suit tensor cores."""
    nodes = {group.anchor.name: group.anchor for group in fused.groups}
    for step in program.steps:
        if isinstance(step, KernelStep) and step.anchor in nodes and suits_tensor_cores(nodes[step.anchor]):
            yield step.anchor, step.function


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="zoo models or ONNX files")
    parser.add_argument("--precision", default=None)
    parser.add_argument("--arch", action="append")
    parser.add_argument("--timed", action="store_true", help="compile twice, and say how long that takes")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    report = Report("Machine code for GPUs", "Compiled and disassembled without a GPU.")
    times = ("cold s", "warm s") if options.timed else ()
    report.head("model", "type", "GPU", "kernels", "spill", "suit tensor cores", "are on them", *times, "others")
    for name in options.models:
        path, shapes = Path(name), None
        if not path.exists():
            model = zoo.get(name)
            path, shapes = model.path(), dict(model.shapes) or None
        for arch in options.arch or ARCHES:
            with tempfile.TemporaryDirectory() as folder:
                seconds = []
                for _ in range(2 if options.timed else 1):
                    start = time.perf_counter()
                    _, fused, program = to_program(path, f"cuda:{arch}", shapes=shapes, precision=options.precision)
                    built = build_program(program, ObjectCache(Path(folder)))
                    _ = built.pieces  # type: ignore[attr-defined]
                    seconds.append(time.perf_counter() - start)
            code = machine_code(cuda_source(built.executable.mod), program.target, None)  # type: ignore[attr-defined]
            (resources,) = code.resources.values()
            on_cores = {
                kernel for kernel, found in kernels_in(code.codes[0].content).items() if found.count("HMMA", "IMMA")
            }
            layers = list(suitable_functions(fused, program))
            others = sorted(
                {node for node, function in layers if not any(k.startswith(function + "_kernel") for k in on_cores)}
            )
            spilled = sum(found.spilled > 0 for found in resources.values())
            report.row(
                path.stem if Path(name).exists() else name, options.precision or "fp32", arch, len(resources), spilled, len(layers),
                len(layers) - len(others), *(f"{s:.1f}" for s in seconds if options.timed), ", ".join(others)[:100],
            )  # fmt: skip
    report.write(options.report)


if __name__ == "__main__":
    main()

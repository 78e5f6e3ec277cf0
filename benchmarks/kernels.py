"""Single operators against what the machine can do: percent of measured multiply-add peak, or of memory bandwidth.

    python benchmarks/kernels.py [--threads 1|2] [--repeat N] [--bytes N] [--write FILE] [CASE ...]

Each case is a model of one operator between graph input and output. Only the operator's own kernel counts, not the copies
and layout changes around it (`graphopt bench --per-layer` does the same). Operators that are bound by memory run on tensors
of ``--bytes`` together, several times the last cache; a reduction after them keeps the result inside the model, or the
operating system's handing out of fresh pages would be measured.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from report import Report, listed, number, plural

import graphopt
from graphopt.driver.bench.machine_peak import MachinePeaks, machine_peaks
from graphopt.driver.bench.per_layer import LayerTime, measure_layers
from graphopt.driver.compiling import compile as compile_model

NAME = "tested"
GOAL = {"compute": 0.88, "memory": 0.80}
"""The parts of compute peak and of bandwidth that kernels should reach."""

Build = Callable[[int], onnx.ModelProto]


@dataclass(frozen=True)
class Case:
    """One operator.

    Attributes:
        build: makes the model; the argument is how many bytes its tensors should have together.
        bound: ``compute`` or ``memory``: what it is measured by.
        exact: leave out algorithms that save multiplications (Winograd), so that operations are what the machine does.
    """

    name: str
    build: Build
    bound: str
    exact: bool = False


def conv(c: int, k: int, size: int, kernel: int = 3, stride: int = 1, group: int = 1, batch: int = 1) -> Build:
    """Convolution with same padding."""
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
    return lambda _: single(
        "Conv", [(batch, c, size, size)], {"w": (k, c // group, kernel, kernel), "b": (k,)}, **attributes
    )


def gemm(m: int, k: int, n: int) -> Build:
    """Matrix product with constant right-hand side."""
    return lambda _: single("MatMul", [(m, k)], {"w": (k, n)})


def product(m: int, k: int, n: int) -> Build:
    """Matrix product of two inputs."""
    return lambda _: single("MatMul", [(m, k), (k, n)], {})


def depthwise(kernel: int, stride: int) -> Build:
    """Depthwise convolution of 64 channels that reads and writes the given bytes."""

    def build(size: int) -> onnx.ModelProto:
        plane = size // 4 / 64 / (1 + 1 / stride**2)
        extent = max(int(math.sqrt(plane)) // 16 * 16, 16)
        shape = (1, 64, extent, extent)
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": 64}
        return single("Conv", [shape], {"w": (64, 1, kernel, kernel), "b": (64,)}, sink=(2, 3), **attributes)

    return build


def spatial(op: str, operands: int = 1, streams: float = 2.0, **attributes: object) -> Build:
    """An operator on images of 64 channels; ``streams`` counts operands and the result."""

    def build(size: int) -> onnx.ModelProto:
        extent = max(int(math.sqrt(size / 4 / 64 / streams)) // 16 * 16, 16)
        return single(op, [(1, 64, extent, extent)] * operands, {}, sink=(2, 3), **attributes)

    return build


def rows(op: str, **weights: tuple[int, ...]) -> Build:
    """An operator along rows of 1024."""
    return lambda size: single(op, [(size // 4 // 2 // 1024, 1024)], weights, sink=(1,), axis=-1)


CASES = (
    Case("conv 3x3, 64 channels at 56", conv(64, 64, 56), "compute", exact=True),
    Case("conv 3x3, 128 channels at 28", conv(128, 128, 28), "compute", exact=True),
    Case("conv 3x3, 256 channels at 14", conv(256, 256, 14), "compute", exact=True),
    Case("conv 3x3, 512 channels at 7", conv(512, 512, 7), "compute", exact=True),
    Case("conv 3x3, 64 channels at 224", conv(64, 64, 224), "compute", exact=True),
    Case("conv 3x3 stride 2, 256 channels at 28", conv(256, 256, 28, stride=2), "compute"),
    Case("conv 1x1, 64 to 256 at 56", conv(64, 256, 56, 1), "compute"),
    Case("conv 1x1, 256 to 64 at 56", conv(256, 64, 56, 1), "compute"),
    Case("conv 1x1, 256 to 1024 at 14", conv(256, 1024, 14, 1), "compute"),
    Case("conv 1x1, 1024 to 256 at 14", conv(1024, 256, 14, 1), "compute"),
    Case("conv 1x1, 512 to 512 at 28", conv(512, 512, 28, 1), "compute"),
    Case("GEMM 512, constant weight", gemm(512, 512, 512), "compute"),
    Case("GEMM 1024, constant weight", gemm(1024, 1024, 1024), "compute"),
    Case("GEMM 2048, constant weight", gemm(2048, 2048, 2048), "compute"),
    Case("GEMM 512, two inputs", product(512, 512, 512), "compute"),
    Case("GEMM 1024, two inputs", product(1024, 1024, 1024), "compute"),
    Case("conv 3x3 Winograd, 64 channels at 224", conv(64, 64, 224), "effective"),
    Case("conv 3x3 Winograd, 256 channels at 28", conv(256, 256, 28), "effective"),
    Case("depthwise 3x3", depthwise(3, 1), "memory"),
    Case("depthwise 3x3 stride 2", depthwise(3, 2), "memory"),
    Case("depthwise 5x5", depthwise(5, 1), "memory"),
    Case("depthwise 5x5 stride 2", depthwise(5, 2), "memory"),
    Case("Relu", spatial("Relu"), "memory"),
    Case("Add", spatial("Add", 2, 3.0), "memory"),
    Case("Sigmoid", spatial("Sigmoid"), "memory"),
    Case("MaxPool 2x2 stride 2", spatial("MaxPool", streams=1.25, kernel_shape=[2, 2], strides=[2, 2]), "memory"),
    Case("MaxPool 3x3 stride 2", spatial("MaxPool", streams=1.25, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), "memory"),
    Case("AveragePool 3x3", spatial("AveragePool", kernel_shape=[3, 3], pads=[1] * 4), "memory"),
    Case("GlobalAveragePool", spatial("GlobalAveragePool", streams=1.0), "memory"),
    Case("LayerNormalization, rows of 1024", rows("LayerNormalization", scale=(1024,), bias=(1024,)), "memory"),
    Case("Softmax, rows of 1024", rows("Softmax"), "memory"),
)  # fmt: skip


def single(
    op: str,
    inputs: list[tuple[int, ...]],
    weights: dict[str, tuple[int, ...]],
    *,
    sink: tuple[int, ...] = (),
    **attributes: object,
) -> onnx.ModelProto:
    """A model of one operator; its result is reduced over the axes ``sink``, if any, to a small output."""
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(len(inputs))]
    constants = [
        numpy_helper.from_array((rng.standard_normal(shape) / 8).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    nodes = [helper.make_node(op, [*names, *weights], ["result"], name=NAME, **attributes)]
    if sink:
        constants.append(numpy_helper.from_array(np.array(sink, np.int64), "axes"))
        nodes.append(helper.make_node("ReduceMax", ["result", "axes"], ["y"], name="sink", keepdims=0))
    graph = helper.make_graph(
        nodes,
        "single",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, inputs)],
        [
            helper.make_tensor_value_info(
                "y" if sink else "result", TensorProto.FLOAT, [None] * (len(inputs[0]) - len(sink))
            )
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def tested(layers: list[LayerTime]) -> LayerTime:
    """The operator's kernel: named after it, else the one that takes longest."""
    named = [layer for layer in layers if layer.label.split(" ")[0] == NAME]
    return max(named or layers, key=lambda layer: layer.ms)


def part_of_goal(case: Case, layer: LayerTime, peaks: MachinePeaks) -> float | None:
    """What part of the bound that the case is measured by is reached."""
    if case.bound == "memory":
        share = (layer.written or 0) / layer.bytes if layer.bytes else 0.0
        return layer.gbytes / peaks.memory.at(share) if layer.gbytes is not None else None
    return layer.gflops / peaks.gflops if layer.gflops is not None else None


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="parts of case names; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    report = Report(
        f"Single operators, {plural(args.threads, 'thread')}",
        f"Medians of up to {args.repeat} runs on {plural(args.threads, 'thread')}, float32. Convolutions marked exact leave "
        "Winograd out; Winograd's GFLOP/s count the operations of a direct convolution. Bandwidth counts operands and results "
        "once, and compares with a stream of the same mix of reads and writes out of cache; tensors have "
        f"{args.bytes >> 20} MB together.",
    )
    peaks: MachinePeaks | None = None
    short: list[str] = []
    for case in CASES:
        if args.cases and not any(word.lower() in case.name.lower() for word in args.cases):
            continue
        try:
            model = case.build(args.bytes)
            compiled = compile_model(model.SerializeToString(), "native", threads=args.threads, exact=case.exact)
            if peaks is None:
                assert compiled.target is not None
                peaks = machine_peaks(compiled.target)
                memory = peaks.memory
                report.add(
                    f"Measured peaks: {peaks.gflops:.0f} GFLOP/s ({peaks.core_gflops:.0f} a core alone); memory "
                    f"{memory.read:.1f} GB/s reading, {memory.triad:.1f} triad, {memory.copy:.1f} copying, "
                    f"{memory.write:.1f} writing.",
                    "",
                )
                report.head("operator", "kernel", "ms", "GFLOP/s", "GB/s", "% of peak", "measured by")
            rng = np.random.default_rng(1)
            feed = {s.name: rng.standard_normal([int(str(d)) for d in s.shape], np.float32) for s in compiled.inputs}
            layer = tested(measure_layers(compiled, feed, args.repeat).layers)
        except graphopt.GraphOptError as error:
            report.row(case.name, error.message, "", "", "", "", "")
            continue
        part = part_of_goal(case, layer, peaks)
        how = case.bound + (", exact" if case.exact else "")
        percent = "" if part is None else f"{100 * part:.0f}"
        report.row(
            case.name,
            layer.template,
            number(layer.ms, 3),
            number(layer.gflops, 0),
            number(layer.gbytes, 1),
            percent,
            how,
        )
        if part is not None and part < GOAL.get(case.bound, 0.0):
            short.append(f"{case.name} ({percent}%)")
        del compiled, feed
    goals = f"{100 * GOAL['compute']:.0f}% of the multiply-add peak, {100 * GOAL['memory']:.0f}% of memory bandwidth"
    report.add("", f"Below the goal ({goals}): {listed(short)}.")
    report.write(args.write)


if __name__ == "__main__":
    main()

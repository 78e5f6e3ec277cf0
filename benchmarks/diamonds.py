"""Nets whose activations are written in parts, in this tree and an older one: what one kernel for anchor and diamond saves.

    git worktree add ../old COMMIT
    python benchmarks/diamonds.py ../old [--threads 1|2] [--rounds N] [--write FILE]

Every net is a chain of convolutions or matrix products with one activation behind each, compiled without the passes that
recognise activations, so that it is run from its parts. As in ``commits.py``, two processes of the old tree and one of this one
take turns, and the two equal ones show the machine's noise.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from commits import HERE, Runner, alternate, spread
from onnx import TensorProto, helper, numpy_helper
from report import Report, geometric_mean, plural

Part = tuple[str, list[str | float]]
"""An operator and its operands: numbers, ``x`` for the activation's operand, or the index of an earlier part."""

ACTIVATIONS: dict[str, list[Part]] = {
    "SiLU": [("Sigmoid", ["x"]), ("Mul", ["x", "0"])],
    "Mish": [("Softplus", ["x"]), ("Tanh", ["0"]), ("Mul", ["x", "1"])],
    "GELU by tanh": [
        ("Mul", ["x", "x"]),
        ("Mul", ["0", "x"]),
        ("Mul", ["1", 0.044715]),
        ("Add", ["x", "2"]),
        ("Mul", ["3", math.sqrt(2 / math.pi)]),
        ("Tanh", ["4"]),
        ("Add", ["5", 1.0]),
        ("Mul", ["x", "6"]),
        ("Mul", ["7", 0.5]),
    ],
}
LAYERS = 8
CHANNELS, EXTENT = 64, 28
WIDE_CHANNELS, WIDE_EXTENT = 96, 112
"""Values that leave the second-level cache."""
ROWS, FEATURES = 128, 384

_RUNNER = """
import json, sys, time
import graphopt, numpy as np, onnx
model, threads = onnx.load(sys.argv[1]), int(sys.argv[2])
shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
feed = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
skip = ("recognise-activations", "recognise-gelu")
compiled = graphopt.compile(model, "native", threads=threads, skip=skip)
compiled.run(feed)
"""


class Net:
    """A chain of layers, one activation behind each."""

    def __init__(self, activation: list[Part]) -> None:
        self.activation = activation
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def add(self, op: str, operands: list[str], **attributes: int | list[int]) -> str:
        """Append a node and name its result."""
        self.nodes.append(helper.make_node(op, operands, [f"t{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def constant(self, array: np.ndarray) -> str:
        """A float32 constant's name."""
        self.constants.append(numpy_helper.from_array(array.astype(np.float32), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def weight(self, *shape: int) -> str:
        """Random numbers that keep the scale of what they are multiplied with, about."""
        return self.constant(self.rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:])))

    def activate(self, x: str) -> str:
        """The activation of a value, part by part."""
        made: list[str] = []
        for op, operands in self.activation:
            names = [
                self.constant(np.array(o)) if isinstance(o, float) else x if o == "x" else made[int(o)]
                for o in operands
            ]
            made.append(self.add(op, names))
        return made[-1]

    def model(self, shape: list[int], result: str) -> onnx.ModelProto:
        """The net, checked."""
        takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        gives = helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "net", [takes], [gives], self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made, full_check=True)
        return made


def convolutions(net: Net, channels: int = CHANNELS, extent: int = EXTENT) -> onnx.ModelProto:
    """3x3 convolutions."""
    value = "x"
    for _ in range(LAYERS):
        value = net.activate(net.add("Conv", [value, net.weight(channels, channels, 3, 3)], pads=[1] * 4))
    return net.model([1, channels, extent, extent], value)


def depthwise(net: Net, channels: int = CHANNELS, extent: int = EXTENT) -> onnx.ModelProto:
    """Depthwise and pointwise convolutions in turn."""
    value = "x"
    for _ in range(LAYERS):
        value = net.add("Conv", [value, net.weight(channels, 1, 3, 3)], pads=[1] * 4, group=channels)
        value = net.add("Conv", [net.activate(value), net.weight(channels, channels, 1, 1)])
        value = net.activate(value)
    return net.model([1, channels, extent, extent], value)


def products(net: Net) -> onnx.ModelProto:
    """Matrix products."""
    value = "x"
    for _ in range(LAYERS):
        value = net.activate(net.add("MatMul", [value, net.weight(FEATURES, FEATURES)]))
    return net.model([ROWS, FEATURES], value)


NETS: dict[str, Callable[[Net], onnx.ModelProto]] = {
    "3x3 convolutions": convolutions,
    "depthwise and 1x1": depthwise,
    "depthwise and 1x1, wide": partial(depthwise, channels=WIDE_CHANNELS, extent=WIDE_EXTENT),
    "matrix products": products,
}


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    old = args.old.resolve()
    report = Report(
        f"Diamonds, {plural(args.threads, 'thread')}",
        f"Milliseconds are medians of {args.rounds} rounds of three processes that take turns: two of the old commit, one of this "
        'one. "old / old" is what the two equal ones differ by.',
    )
    report.head("layers", "activation", "old ms", "new ms", "new / old", "old / old")
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for layers, build in NETS.items():
            for activation, parts in ACTIVATIONS.items():
                path = Path(folder) / "net.onnx"
                onnx.save(build(Net(parts)), path)
                runners = [Runner(tree, str(path), args.threads, _RUNNER) for tree in (old, old, HERE)]
                first, second, new = alternate(runners, args.rounds)
                for runner in runners:
                    runner.close()
                base, now = statistics.median([*first, *second]), statistics.median(new)
                ratios.append(now / base)
                cells = (
                    f"{1e3 * base:.3f}",
                    f"{1e3 * now:.3f}",
                    f"{ratios[-1]:.3f}",
                    f"{spread(first, second)[1]:.3f}",
                )
                report.row(layers, activation, *cells)
    report.add("", f"Geometric mean of new over old: {geometric_mean(ratios):.3f}; below 1 this commit is faster.")
    report.write(args.write)


if __name__ == "__main__":
    sys.exit(main())

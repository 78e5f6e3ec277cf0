"""Whether the advantage holds at other batches and at sizes that divide by nothing.

    python benchmarks/shapes.py [--threads 1|2] [--repeat N] [--write FILE] [MODEL ...]

The classifiers are cut before their last pooling, since the layers after it fix the size of the image; their weights and shapes
up to there are the originals. Each row is a contest as in ``zoo.py``; ``relative`` is its ratio over that of the model's first row.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from contest import PEERS, contest
from report import Report, geometric_mean, listed, number, plural

import graphopt
from graphopt.models import zoo

TOLERANCE = 0.10
"""Ratios should stay within this of the first row's."""
CLASSIFIERS = ("resnet50", "vgg19", "densenet121", "squeezenet", "inception_v1")
CLASSIFIER_SHAPES = ((1, 3, 224, 224), (4, 3, 224, 224), (16, 3, 224, 224), (1, 3, 225, 225), (1, 3, 37, 37))
OTHERS = {
    "nudenet": ((1, 3, 320, 320), (4, 3, 320, 320), (16, 3, 320, 320)),
    "ppocr_rec": ((1, 3, 48, 320), (4, 3, 48, 320), (16, 3, 48, 320), (1, 3, 48, 225), (1, 3, 48, 37)),
    "ppocr_cls": ((1, 3, 48, 192), (4, 3, 48, 192), (16, 3, 48, 192), (1, 3, 48, 225), (1, 3, 48, 37)),
}


def features(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model up to its last pooling, with the image's batch, height and width open."""
    pools = [node for node in proto.graph.node if node.op_type in ("AveragePool", "GlobalAveragePool", "MaxPool")]
    last = pools[-1].input[0]
    producers = {name: node for node in proto.graph.node for name in node.output}
    needed, stack = set(), [last]
    while stack:
        node = producers.get(stack.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            stack += node.input
    nodes = [node for node in proto.graph.node if id(node) in needed]
    used = {name for node in nodes for name in node.input}
    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    del cut.graph.node[:], cut.graph.output[:], cut.graph.value_info[:], cut.graph.initializer[:], cut.graph.input[:]
    cut.graph.node.extend(nodes)
    cut.graph.initializer.extend(item for item in proto.graph.initializer if item.name in used)
    constants = {item.name for item in proto.graph.initializer}
    image = next(item for item in proto.graph.input if item.name in used and item.name not in constants)
    for item in (image,):
        opened = cut.graph.input.add()
        opened.CopyFrom(item)
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            opened.type.tensor_type.shape.dim[axis].dim_param = name
    cut.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, [None] * 4))
    return cut


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[*CLASSIFIERS, *OTHERS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    report = Report(
        f"Batches and odd sizes, {plural(args.threads, 'thread')}",
        f"{plural(args.threads, 'thread')}, float32, every shape compiled for itself. Medians of processes that take turns, "
        "in milliseconds; the ratio is that of the best peer over graphopt. Relative: the ratio over that of the model's first "
        "row.",
    )
    report.head("model", "input", "graphopt ms", *(f"{peer} ms" for peer in PEERS), "best peer", "ratio", "relative")
    ratios: list[float] = []
    worse: list[str] = []
    for name in args.models:
        model = zoo.get(name)
        key = model.feeds[0].name
        first: float | None = None
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = model.path()
            if name in CLASSIFIERS:
                path = Path(folder) / f"{name}.onnx"
                onnx.save_model(features(model.proto()), path)
            for shape in CLASSIFIER_SHAPES if name in CLASSIFIERS else OTHERS[name]:
                text = "x".join(map(str, shape))
                feed = {key: np.random.default_rng(0).standard_normal(shape, np.float32)}
                try:
                    found = contest(path, feed, args.threads, args.repeat, check=False, budget_s=30.0)
                except graphopt.GraphOptError as error:
                    report.row(name, text, error.message, *[""] * (len(PEERS) + 3))
                    continue
                relative = None if found.ratio is None or first is None else found.ratio / first
                first = first or found.ratio
                best = found.best.name if found.best else ""
                cells = [found.cell(peer) for peer in PEERS]
                report.row(
                    name, text, number(found.ours.median_ms), *cells, best, number(found.ratio), number(relative)
                )
                ratios += [found.ratio] if found.ratio else []
                if relative is not None and relative < 1 - TOLERANCE:
                    worse.append(f"{name} {text} ({relative:.2f})")
    report.add("", f"Geometric mean of the ratios: {geometric_mean(ratios):.2f}.")
    report.add(f"Ratio more than {100 * TOLERANCE:.0f}% below that of the first row: {listed(worse)}.")
    report.write(args.write)


if __name__ == "__main__":
    main()

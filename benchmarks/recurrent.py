"""Recurrent layers against other runtimes.

    python benchmarks/recurrent.py [--threads 1|2] [--hidden N ...] [--forms FORM ...] [--missing] [--budget SECONDS] [--write FILE]

The models are made here, seeded: one LSTM or GRU with as many features as hidden units, 32 time steps, in one direction or two, a
batch of 1 or 8, of fixed or open length. GRUs are of both forms: those that PyTorch exports, whose reset gate scales the product
with the state, and ONNX's default. With ``--write``, what earlier calls measured is kept in a file of JSON beside the report, so
that the grid can be measured in parts, and the report is of all parts; with ``--missing``, no part is measured twice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnx
from contest import PEERS, contest
from onnx import TensorProto, helper, numpy_helper
from report import Report, geometric_mean, listed, number, plural

STEPS = 32
HIDDEN = (32, 64, 128, 256, 512)
FORMS = {"LSTM": ("LSTM", 4, {}), "GRU": ("GRU", 3, {"linear_before_reset": 1}), "GRU, reset first": ("GRU", 3, {})}
"""Operator, gates and attributes."""
REPEAT = 30


@dataclass(frozen=True)
class Layer:
    """One model.

    Attributes:
        form: a key of `FORMS`.
        hidden: units, and features.
        batch: sequences.
        directions: one or two.
        is_open: whether the length of the sequences is open.
    """

    form: str
    hidden: int
    batch: int
    directions: int
    is_open: bool

    def __str__(self) -> str:
        """For a table."""
        length = "open" if self.is_open else "fixed"
        direction = "one direction" if self.directions == 1 else "both directions"
        return f"{self.form}, {self.hidden}, batch {self.batch}, {direction}, {length} length"

    def model(self) -> onnx.ModelProto:
        """The layer with all of its results."""
        op, gates, attrs = FORMS[self.form]
        rng = np.random.default_rng(0)
        rows, reach = gates * self.hidden, self.hidden**-0.5
        shapes = {"w": (rows, self.hidden), "r": (rows, self.hidden), "b": (2 * rows,)}
        weights = [
            numpy_helper.from_array(rng.uniform(-reach, reach, (self.directions, *s)).astype(np.float32), name)
            for name, s in shapes.items()
        ]
        steps = "steps" if self.is_open else STEPS
        state = (self.directions, self.batch, self.hidden)
        results = {"y": (steps, *state), "h": state, **({"c": state} if op == "LSTM" else {})}
        direction = "bidirectional" if self.directions == 2 else "forward"
        node = helper.make_node(
            op, ["x", *shapes], list(results), hidden_size=self.hidden, direction=direction, **attrs
        )

        def info(name: str, shape: Sequence[object]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            [node], "recurrent", [info("x", (steps, self.batch, self.hidden))], [info(n, s) for n, s in results.items()],
            weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def measured(layer: Layer, threads: int, budget_s: float) -> dict[str, float]:
    """Median milliseconds by runtime; peers that compute something else, or nothing, are left out."""
    feed = {"x": np.random.default_rng(1).standard_normal((STEPS, layer.batch, layer.hidden), np.float32)}
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "recurrent.onnx"
        onnx.save_model(layer.model(), path)
        found = contest(path, feed, threads, REPEAT, check=False, budget_s=budget_s, dynamic=layer.is_open)
    peers = {name: latency.median_ms for name, latency in found.peers.items() if latency.problem is None}
    return {"graphopt": found.ours.median_ms, **peers}


def main() -> None:
    """Measure, and print or write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--hidden", type=int, nargs="*", default=HIDDEN, help="none: write the report only")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--missing", action="store_true", help="leave out what earlier calls measured")
    parser.add_argument("--budget", type=float, default=2.0)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    kept = args.write.with_suffix(".json") if args.write else None
    results: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name, layer, threads in cells(args.threads, args.hidden, args.forms):
        if args.missing and name in results:
            continue
        results[name] = measured(layer, threads, args.budget)
        if kept:
            kept.write_text(json.dumps(results, indent=0) + "\n")
    order = [name for name, _, _ in cells((1, 2), HIDDEN, list(FORMS))]
    write_report(dict(sorted(results.items(), key=lambda item: order.index(item[0]))), args.write)


def cells(threads: Sequence[int], hidden: Sequence[int], forms: Sequence[str]) -> Iterator[tuple[str, Layer, int]]:
    """Name, model and threads of what is measured, in the order of the report."""
    for count, size, form, *rest in product(threads, hidden, forms, (1, 8), (1, 2), (False, True)):
        layer = Layer(form, size, *rest)
        yield f"{layer}, {plural(count, 'thread')}", layer, count


def write_report(results: dict[str, dict[str, float]], path: Path | None) -> None:
    """A row a cell, and what they come to."""
    report = Report(
        "Recurrent layers",
        f"One layer with as many features as hidden units, {STEPS} steps, float32. Medians of processes that take turns, in "
        "milliseconds; the ratio is that of the best peer over graphopt. The grid is measured in parts, not all of them at this "
        "commit.",
    )
    report.head("layer", "graphopt ms", *(f"{peer} ms" for peer in PEERS), "ratio")
    ratios = {}
    for name, times in results.items():
        peers = [times[peer] for peer in PEERS if peer in times]
        ratio = min(peers) / times["graphopt"] if peers else None
        ratios |= {name: ratio} if ratio else {}
        report.row(name, number(times["graphopt"], 3), *(number(times.get(p), 3) for p in PEERS), number(ratio))
    slower = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1]
    report.add("", f"Geometric mean of the ratios: {geometric_mean(ratios.values()):.2f}, of {len(ratios)}.")
    report.add(f"Below 1: {listed(slower)}.")
    report.write(path)


if __name__ == "__main__":
    main()

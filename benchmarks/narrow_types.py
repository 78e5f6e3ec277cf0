"""Models whose elements are of 16 bits against the same models in float32: does half the memory pay for the conversions?

    python benchmarks/narrow_types.py [--threads 1|2] [--rounds N] [--processes N] [--types f16 bf16] [--write FILE] [NET ...]

A NET is one of ``narrow_nets.py``, or a model of the zoo in float32. Every type has a process of its own; they take turns. The
error is the relative L2 distance of the first result from float32's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from commits import HERE, Runner, alternate
from narrow_nets import NETS
from onnx import TensorProto, helper, numpy_helper
from report import Report, geometric_mean, plural

import graphopt
from graphopt.models import zoo

TYPES = {"f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
DEFAULT = ("mobilenet", "bert", "mobilenet_v2", "squeezenet", "shufflenet")

_RUNNER = """
import json, sys, time
import graphopt, numpy as np
folder, threads = sys.argv[1], int(sys.argv[2])
compiled = graphopt.compile(folder + "/model.onnx", "native", threads=threads)
loaded = np.load(folder + "/feed.npz")
feed = {s.name: loaded[s.name].astype(s.dtype.numpy) for s in compiled.inputs}
result = next(iter(compiled.run(feed).values()))
np.save(folder + "/result.npy", np.asarray(result).astype(np.float32))
"""


def retyped(model: onnx.ModelProto, to: int) -> onnx.ModelProto:
    """A model of float32 with every tensor of it in another type; Resize keeps its scales."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.value_info[:]
    kept = {name for node in graph.node if node.op_type == "Resize" for name in list(node.input)[1:]}
    dtype = helper.tensor_dtype_to_np_dtype(to)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = to
            if attribute.t.data_type == TensorProto.FLOAT and not set(node.output) & kept:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(dtype)))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = to
    return made


def source(name: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model in float32 with fixed shapes, and what it is fed."""
    if name in NETS:
        model = NETS[name]()
        shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        return model, {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    feed = zoo.get(name).inputs(0)
    # at the newest operators, some of which older versions don't have in bfloat16
    graph = graphopt.import_onnx(zoo.get(name).path(), shapes={n: a.shape for n, a in feed.items()})
    return graphopt.export_onnx(graph), feed


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--processes", type=int, default=5, help="of each type: where its memory lies is each one's luck"
    )
    parser.add_argument("--types", nargs="+", choices=TYPES, default=["f16"])
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    report = Report(
        f"16 bits against float32, {plural(args.threads, 'thread')}",
        f"Medians of {args.processes} times {args.rounds} rounds of processes that take turns, one a type, in milliseconds. "
        "Stored in 16 bits, computed in float32. The ratio is float32 over the type, above 1 it is faster; the error is "
        "relative to float32's result (L2).",
    )
    report.head("model", "float32 ms", *(f"{t} {what}" for t in args.types for what in ("ms", "ratio", "error")))
    ratios: dict[str, list[float]] = {t: [] for t in args.types}
    for name in args.nets:
        with tempfile.TemporaryDirectory() as folder:
            model, feed = source(name)
            places = [Path(folder, kind) for kind in ("f32", *args.types)]
            for place in places:
                place.mkdir()
                typed = model if place.name == "f32" else retyped(model, TYPES[place.name])
                onnx.save(typed, str(place / "model.onnx"))
                np.savez(place / "feed.npz", **feed)
            rounds: list[list[float]] = [[] for _ in places]
            for _ in range(args.processes):
                runners = [Runner(HERE, str(place), args.threads, _RUNNER) for place in places]
                for times, more in zip(rounds, alternate(runners, args.rounds), strict=True):
                    times += more
                for runner in runners:
                    runner.close()
            wide, *narrow = (1e3 * statistics.median(times) for times in rounds)
            results = [np.load(place / "result.npy").astype(np.float64) for place in places]
        cells = [f"{wide:.3f}"]
        for kind, ms, result in zip(args.types, narrow, results[1:], strict=True):
            ratios[kind].append(wide / ms)
            error = np.linalg.norm(result - results[0]) / np.linalg.norm(results[0])
            cells += [f"{ms:.3f}", f"{wide / ms:.2f}", f"{error:.1e}"]
        report.row(name, *cells)
    report.add("", *(f"Geometric mean of the ratios in {t}: {geometric_mean(r):.2f}." for t, r in ratios.items()))
    report.write(args.write)


if __name__ == "__main__":
    main()

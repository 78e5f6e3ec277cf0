"""What a call costs beside its kernels: networks of microseconds through the Python interfaces of several runtimes.

    python benchmarks/call_overhead.py [--rounds N] [--write FILE]

Each runtime has a process of its own for every model; they take turns, so that all meet the same state of the machine. One thread
each, shapes fixed, outputs in memory of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from report import Report

from graphopt.models import zoo

MODELS = ("relu", "digits", "silero_vad_op18_ifless")
"""``relu`` is one Relu of four elements, of which next to nothing is spent in the kernel."""
RUNTIMES = ("graphopt", "ONNX Runtime", "OpenVINO")
BATCH = 10
"""Calls between two looks at the clock."""
BATCHES = 40
"""Batches of one turn."""
OBSERVED = 1000
"""Runs in which kernels are timed."""
Call = Callable[[], Any]
Kernels = Callable[[], tuple[float, int] | None]
"""The least microseconds that a run spends in kernels, and how many they are; None where that can't be known."""


def source(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model and inputs for it."""
    if name != "relu":
        model = zoo.get(name)
        return onnx.load(model.path()), model.inputs(0)
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made, {"x": np.array([-1, 2, -3, 4], np.float32)}


def graphopt_call(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> tuple[Call, Kernels]:
    """A call of a compiled model."""
    import graphopt
    from graphopt.backends.build.call_clock import CallClock
    from graphopt.backends.targets.grammar import parse_target
    from graphopt.runtime.kernel_facts import kernel_facts
    from graphopt.runtime.observe import observed

    compiled = graphopt.compile(model, "native", threads=1, shapes={name: a.shape for name, a in feed.items()})
    given = dict(feed)

    def kernels() -> tuple[float, int]:
        functions = {fact.function for fact in kernel_facts(compiled)}
        events: list[tuple[str, bool]] = []

        def note(function: Any, name: str, before: bool, *_: Any) -> int:
            events.append((name, before))
            return 0

        with observed(compiled, note):
            compiled.run(given)
        inside = [i for i, (name, before) in enumerate(events) if before and name in functions]
        clock, least = CallClock(len(events), parse_target("native", 1)), np.full(len(inside), np.inf)
        with observed(compiled, clock.function):
            for _ in range(OBSERVED):
                clock.clear()
                compiled.run(given)
                least = np.minimum(least, np.diff(clock.nanoseconds())[inside])
        return float(least.sum() / 1e3), len(inside)

    return lambda: compiled.run(given), kernels


def onnxruntime_call(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> tuple[Call, Kernels]:
    """A call of a session with all of its optimisations; the names of outputs are at hand, which is its fastest way.

    Its kernels are not timed: its profiler counts whole microseconds, and takes longer than they do.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for item in model.graph.input:
        for dim, extent in zip(item.type.tensor_type.shape.dim, feed[item.name].shape):
            if dim.dim_param:
                options.add_free_dimension_override_by_name(dim.dim_param, extent)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names, given = [item.name for item in session.get_outputs()], dict(feed)
    return lambda: session.run(names, given), lambda: None


def openvino_call(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> tuple[Call, Kernels]:
    """A call of an infer request that reads arrays in place."""
    import openvino as ov

    core = ov.Core()
    network = core.read_model(model.SerializeToString())
    network.reshape({port: list(feed[port.any_name].shape) for port in network.inputs})
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(network, "CPU", hints).create_infer_request()
    given = dict(feed)
    return lambda: request.infer(given, share_inputs=True, share_outputs=False), lambda: None


def serve(runtime: str, name: str) -> None:
    """A process that is timed: prints what one call takes, in microseconds, batch by batch, for every line that it reads."""
    calls = {"graphopt": graphopt_call, "ONNX Runtime": onnxruntime_call, "OpenVINO": openvino_call}
    model, feed = source(name)
    call, kernels = calls[runtime](model, feed)
    for _ in range(100):
        call()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "kernels":
            print(json.dumps(kernels()), flush=True)
            continue
        times = []
        for _ in range(BATCHES):
            start = time.perf_counter()
            for _ in range(BATCH):
                call()
            times.append((time.perf_counter() - start) / BATCH * 1e6)
        print(json.dumps(times), flush=True)


class Process:
    """A process that is timed."""

    def __init__(self, runtime: str, name: str) -> None:
        self.times: list[float] = []
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", runtime, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def ask(self, what: str) -> Any:
        """The answer to a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def turn(self) -> None:
        """Time some batches."""
        self.times += self.ask("time")

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args!r} ended: {self.process.wait()}")
        return line


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    report = Report(
        "What a call costs",
        f"Microseconds of one call from Python, one thread, shapes fixed: median and least of {args.rounds * BATCHES} batches of "
        f"{BATCH} calls in {args.rounds} rounds of processes that take turns. `relu` is one Relu of four elements: what it takes "
        f"is what a call costs. graphopt's kernels are timed with a clock in {OBSERVED} more runs, the least of each; what the "
        "least of all calls takes beside them is what calling costs.",
    )
    report.head("model", "runtime", "median us", "least us", "of it in kernels (how many)", "beside kernels")
    for name in MODELS:
        processes = {runtime: Process(runtime, name) for runtime in RUNTIMES}
        for n in range(args.rounds):
            for i in range(len(RUNTIMES)):
                processes[RUNTIMES[(i + n) % len(RUNTIMES)]].turn()
        for runtime, process in processes.items():
            found = process.ask("kernels")
            process.close()
            median = statistics.median(process.times)
            cells = (f"{found[0]:.1f} ({found[1]})", f"{min(process.times) - found[0]:.1f}") if found else ("", "")
            report.row(name, runtime, f"{median:.1f}", f"{min(process.times):.1f}", *cells)
    report.write(args.write)


if __name__ == "__main__":
    main()

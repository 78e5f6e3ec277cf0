"""What ``graphopt demo`` does and reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graphopt.backends.base.scratch import scratch_folder
from graphopt.driver.accuracy import Comparison, compare_all, longest_sum, summing_depth
from graphopt.driver.bench.compete import compete
from graphopt.driver.bench.entrants import own_entrant, peer_entrant
from graphopt.driver.bench.measure import Latency
from graphopt.driver.compiling import compile
from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import optimize
from graphopt.driver.reference import has_onnxruntime, make_reference
from graphopt.errors import AccuracyError
from graphopt.models import zoo

Working = Callable[[str], AbstractContextManager[None]]
_TVM_ROUNDS = 2
"""TVM's default pipeline takes seconds a run."""


@dataclass
class DemoReport:
    """Everything measured."""

    target: str = ""
    threads: int = 0
    nodes: tuple[int, int] = (0, 0)
    kernels: int = 0
    digits_compile_s: float = 0.0
    accuracy: float = 0.0
    reference_accuracy: float = 0.0
    images: int = 0
    reference: str = ""
    checks: list[tuple[str, Comparison]] = field(default_factory=list)
    resnet_compile_s: float = 0.0
    latencies: list[Latency] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str]]:
        """The table: what was done, what came out."""
        found = [
            ("digits: import and optimise", f"{self.nodes[0]} nodes -> {self.nodes[1]}"),
            ("digits: compile", f"{self.kernels} kernel calls in {self.digits_compile_s:.1f} s"),
            (
                f"digits: accuracy on {self.images} test images",
                f"{100 * self.accuracy:.2f}% (reference {self.reference}: {100 * self.reference_accuracy:.2f}%)",
            ),
        ]
        found += [
            (
                f"{model}: {c.name} against {self.reference}",
                f"error {c.error:.1e}, allowed {c.allowed:.1e}: {'ok' if c.ok else c.problem}",
            )
            for model, c in self.checks
        ]
        found.append(("resnet50: compile", f"{self.resnet_compile_s:.1f} s"))
        for r in self.latencies:
            versus = "" if r.name == "graphopt" else f", {r.ratio:.2f} times graphopt's"
            found.append((f"resnet50: {r.name}", f"{r.median_ms:.1f} ms{versus}"))
        return [*found, *(("note", note) for note in self.notes)]

    def error(self) -> AccuracyError | None:
        """The first difference from the reference."""
        bad = [(model, c) for model, c in self.checks if not c.ok]
        if not bad:
            return None
        model, c = bad[0]
        return AccuracyError(f"{model}: output {c.name!r} differs from {self.reference}: {c.problem}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            **asdict(self),
            "checks": [{"model": model, **asdict(c), "ok": c.ok} for model, c in self.checks],
            "ok": self.error() is None,
        }


def run_demo(threads: int | None, with_tvm: bool, working: Working) -> DemoReport:
    """Import, optimise, compile, verify and time.

    Args:
        threads: CPU threads; None for all.
        with_tvm: also run TVM's default pipeline on ResNet-50.
        working: shows a message while a step runs.
    """
    report = DemoReport()
    _digits(report, threads, working)
    _resnet(report, threads, with_tvm, working)
    return report


def _digits(report: DemoReport, threads: int | None, working: Working) -> None:
    model = zoo.get("digits")
    images, labels = zoo.digits_test()
    with working("digits: importing and optimising"):
        graph = import_onnx(model.path())
        better = optimize(graph)
    report.nodes = (len(graph.nodes), len(better.nodes))
    with working("digits: compiling"):
        start = time.perf_counter()
        compiled = compile(graph, "native", threads=threads)
        report.digits_compile_s = time.perf_counter() - start
    assert compiled.program is not None
    assert compiled.target is not None
    report.kernels = len(compiled.program.kernels)
    report.target, report.threads = compiled.target.name, compiled.target.caps.cores
    with working("digits: verifying on the test images"):
        name = compiled.inputs[0].name
        reference = make_reference(model.path())
        got, want = compiled.run({name: images}), reference({name: images})
    report.reference = reference.kind
    report.images = len(images)
    key = next(iter(want))
    report.accuracy = float(np.mean(got[key].argmax(-1) == labels))
    report.reference_accuracy = float(np.mean(want[key].argmax(-1) == labels))
    checks = compare_all(got, want, reduction=longest_sum(graph), depth=summing_depth(graph))
    report.checks += [("digits", c) for c in checks]


def _resnet(report: DemoReport, threads: int | None, with_tvm: bool, working: Working) -> None:
    model = zoo.get("resnet50")
    with working("resnet50: making seeded weights (once)"):
        path = model.path()
    feed = model.inputs(seed=1)
    with working("resnet50: compiling"):
        start = time.perf_counter()
        graph = import_onnx(path)
        compiled = compile(graph, "native", threads=threads)
        report.resnet_compile_s = time.perf_counter() - start
    with working("resnet50: verifying"):
        got, want = compiled.run(feed), make_reference(path)(feed)
    checks = compare_all(got, want, reduction=longest_sum(graph), depth=summing_depth(graph))
    report.checks += [("resnet50", c) for c in checks]
    peers = ["onnxruntime"] if has_onnxruntime() else []
    if not peers:
        report.notes.append('ONNX Runtime is not installed; pip install "graphopt[bench]" adds it to the comparison')
    with scratch_folder() as folder:
        ours = own_entrant(compiled, folder, feed, report.resnet_compile_s)
        entrants = [ours, *(peer_entrant(name, path, folder, feed, report.threads) for name in peers)]
        with working("resnet50: measuring"):
            standings = compete(entrants, repeat=15)
        report.latencies = standings.latencies
        report.notes += [reason for _, reason in standings.absent]
        if with_tvm:
            with working("resnet50: TVM's default pipeline, seconds a run"):
                standings = compete([ours, peer_entrant("tvm", path, folder, feed, report.threads)], _TVM_ROUNDS)
            report.latencies += standings.latencies[1:]
            report.notes += [reason for _, reason in standings.absent]

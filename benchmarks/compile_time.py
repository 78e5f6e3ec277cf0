"""Seconds of every phase of compilation, by the number of nodes, without a cache of kernels: does it grow in a straight line?

    python benchmarks/compile_time.py --write benchmarks/reports/compile-time.md
    python benchmarks/compile_time.py --forms chain,kernels --sizes 1250,2500 --repeat 1
    python benchmarks/compile_time.py --model FILE.onnx [--repeat N]
    python benchmarks/compile_time.py --profile passes --forms chain --sizes 2500

Every figure comes from a fresh process, from the import of TVM ("start") to the linked library; the least of
the repetitions counts.
``--cpu`` gives seconds of CPU time, all processes' together, in place of elapsed ones. With ``--write`` the curves are drawn to a
PNG beside the report (extra ``plot``).
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from compile_graphs import FORMS, write
from report import Report

PHASES = ("start", "import", "passes", "fuse", "lower", "emit", "build", "link")
SIZES = (1250, 2500, 5000, 10000)
TARGET_NODES, TARGET_SECONDS = 2000, 10.0
GROWING = ("chain", "residual", "fan-out", "constants")
MODELS = ("transformer", "detector")
"""Graphs like those that people compile: measured at `TARGET_NODES`, the others at `SIZES`."""
STRAIGHT = 1.1
"""Largest exponent that passes for a straight line."""
BENT = 0.2
"""Largest part of the seconds at the largest size that may grow with the square of the nodes."""

Timings = dict[str, float]


def compile_once(path: str, threads: int, cpu: bool, profile: str | None) -> Timings:
    """Compile a file in this process; seconds a phase, and counts of nodes and kernels."""
    from graphopt.backends.program.relax_emit import to_module
    from graphopt.backends.targets.compilation import build_module, fuse_for, lower_fused
    from graphopt.backends.targets.grammar import parse_target
    from graphopt.driver.compiling import prepare
    from graphopt.driver.importing import import_onnx

    found: Timings = {}
    target = parse_target("native", threads)

    def phase(name: str, run: Callable[[], Any]) -> Any:
        profiler = cProfile.Profile() if profile == name else None
        start = clock(cpu)
        result = profiler.runcall(run) if profiler else run()
        found[name] = clock(cpu) - start
        if profiler:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
        return result

    graph = phase("import", lambda: import_onnx(path))
    found["nodes"] = sum(1 for _ in graph.walk())
    graph = phase("passes", lambda: prepare(graph, None, 2, None, (), False))
    fused = phase("fuse", lambda: fuse_for(graph, target))
    program = phase("lower", lambda: lower_fused(fused, target))
    found["steps"], found["kernels"] = len(program.steps), len(program.functions)
    module = phase("emit", lambda: to_module(program))
    built = phase("build", lambda: build_module(module, target))
    phase("link", built.library_bytes)
    return found


def started(cpu: bool) -> Timings:
    """Seconds of importing TVM, which every process has to."""
    start = clock(cpu)
    import tvm  # noqa: F401

    return {"start": clock(cpu) - start}


def clock(cpu: bool) -> float:
    """Seconds since some moment: elapsed ones, or of CPU time with that of children that have ended."""
    return sum(os.times()[:4]) if cpu else time.perf_counter()


def measure(path: str, arguments: argparse.Namespace) -> Timings:
    """The least of every phase over fresh processes.

    Raises:
        RuntimeError: a process failed.
    """
    command = [sys.executable, __file__, "--child", path, "--threads", str(arguments.threads)]
    command += ["--cpu"] if arguments.cpu else []
    best: Timings = {}
    for _ in range(arguments.repeat):
        done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.limit, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"compiling {path} failed: {done.stderr.strip()[-2000:]}")
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            best[name] = min(best.get(name, value), value)
    return best


def total(timings: Timings) -> float:
    """Seconds of all phases."""
    return sum(timings[phase] for phase in PHASES)


def points(sizes: dict[int, Timings]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nodes and seconds, from the smallest graph to the largest."""
    ordered = [sizes[size] for size in sorted(sizes)]
    return np.array([t["nodes"] for t in ordered]), np.array([total(t) for t in ordered])


def exponent(sizes: dict[int, Timings]) -> float:
    """``p`` of the power of the nodes that fits the seconds of all sizes best, fixed costs included."""
    nodes, seconds = points(sizes)
    return float(np.polyfit(np.log(nodes), np.log(seconds), 1)[0])


def bent_part(sizes: dict[int, Timings]) -> float:
    """Of the seconds at the largest size, the part that grows with the square of the nodes.

    By the parabola that fits all sizes best. Fixed costs, which make an exponent look better than it is, are apart in it.
    """
    nodes, seconds = points(sizes)
    return float(np.polyfit(nodes, seconds, 2)[0] * nodes[-1] ** 2 / seconds[-1])


def marginal(sizes: dict[int, Timings]) -> list[float]:
    """Milliseconds of each node more, from size to size."""
    nodes, seconds = points(sizes)
    return list(1000 * np.diff(seconds) / np.diff(nodes))


def plot(results: dict[str, dict[int, Timings]], path: Path) -> None:
    """Seconds by nodes, a curve a form, dotted the straight line that fits it best."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for form, sizes in results.items():
        nodes, seconds = points(sizes)
        (curve,) = axes.plot(nodes, seconds, marker="o", linestyle="-" if len(nodes) > 1 else "none", label=form)
        if len(nodes) > 2:
            slope, start = np.polyfit(nodes, seconds, 1)
            axes.plot(nodes, start + slope * nodes, linestyle=":", color=curve.get_color())
    axes.plot(
        [TARGET_NODES], [TARGET_SECONDS], marker="_", markersize=14, color="black", linestyle="none", label="target"
    )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes in the file")
    axes.set_ylabel("seconds to compile")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table(results: dict[str, dict[int, Timings]]) -> str:
    """All figures as Markdown."""
    lines = [
        "| graph | nodes | kernel calls | kernels | " + " | ".join(PHASES) + " | total s | ms a node |",
        "|---" * (len(PHASES) + 6) + "|",
    ]
    for form, sizes in results.items():
        for size in sorted(sizes):
            t = sizes[size]
            seconds = " | ".join(f"{t[phase]:.2f}" for phase in PHASES)
            lines.append(
                f"| {form} | {t['nodes']:.0f} | {t['steps']:.0f} | {t['kernels']:.0f} | {seconds} | {total(t):.1f} |"
                f" {1000 * total(t) / t['nodes']:.2f} |"
            )
    return "\n".join(lines)


def verdicts(results: dict[str, dict[int, Timings]]) -> list[str]:
    """What the figures say about the targets."""
    lines = []
    for form, sizes in results.items():
        if len(sizes) > 2:
            power, bent = exponent(sizes), bent_part(sizes)
            straight = "a straight line" if power <= STRAIGHT and bent <= BENT else "NOT a straight line"
            each = ", ".join(f"{ms:.2f}" for ms in marginal(sizes))
            lines.append(
                f"- {form}: {straight}. Over all {len(sizes)} sizes time grows with nodes^{power:.2f}; of the seconds at the"
                f" largest, {100 * max(bent, 0):.0f}% grow with the square; from size to size a node more costs {each} ms."
            )
        if TARGET_NODES in sizes:
            seconds = total(sizes[TARGET_NODES])
            met = "met" if seconds < TARGET_SECONDS else "MISSED"
            lines.append(
                f"- {form}, {TARGET_NODES} nodes: {seconds:.1f} s cold; under {TARGET_SECONDS:.0f} s is {met}."
            )
    return lines


def asked(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Forms and sizes to measure."""
    forms = arguments.forms.split(",") if arguments.forms else [*MODELS, *GROWING]
    sizes = [int(size) for size in arguments.sizes.split(",")] if arguments.sizes else []
    return [(f, size) for f in forms for size in sizes or ([TARGET_NODES] if f in MODELS else SIZES)]


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", help=f"of {', '.join(FORMS)}; by default all but the one without equal kernels")
    parser.add_argument("--sizes", help="numbers of nodes")
    parser.add_argument("--model", help="measure this file instead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds in place of elapsed ones")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that one compilation may take")
    parser.add_argument("--profile", choices=PHASES[1:], help="profile one phase in this process, write nothing")
    parser.add_argument("--write", type=Path, help="Markdown file to write, with a PNG beside it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    """Measure and report."""
    arguments = arguments_of()
    if arguments.child:
        print(
            json.dumps(started(arguments.cpu) | compile_once(arguments.child, arguments.threads, arguments.cpu, None))
        )
        return
    results: dict[str, dict[int, Timings]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = [(arguments.model, 0)] if arguments.model else []
        models += [] if arguments.model else asked(arguments)
        for form, size in models:
            path = arguments.model or str(Path(folder) / f"{form}-{size}.onnx")
            if not arguments.model:
                write(form, size, path)
            if arguments.profile:
                compile_once(path, arguments.threads, arguments.cpu, arguments.profile)
                continue
            found = measure(path, arguments)
            results.setdefault(form, {})[size] = found
            print(form, size, f"{total(found):.1f} s", {p: round(found[p], 2) for p in PHASES}, flush=True)
    if not results:
        return
    print(table(results))
    print("\n".join(verdicts(results)))
    if arguments.write:
        picture = arguments.write.with_suffix(".png")
        plot(results, picture)
        kind = "CPU seconds" if arguments.cpu else "Seconds"
        report = Report(
            f"Time of compilation, {arguments.threads} threads",
            f"{kind} of every phase in fresh processes, least of {arguments.repeat}, without a cache of kernels. "
            "Graphs: `benchmarks/compile_graphs.py`.",
        )
        report.add(f"![seconds by nodes]({picture.name})", "", table(results), "", *verdicts(results))
        report.write(arguments.write)


if __name__ == "__main__":
    main()

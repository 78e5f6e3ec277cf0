"""Threads under load: how much slower runs get beside others, and what several callers get done, against ONNX Runtime and others.

    python benchmarks/threads.py [--old TREE] [--quick] [--rounds N] [--seconds S] [--scenario NAME ...] [--model NAME ...]
                                 [--peers P,P] [--write FILE] [--json FILE]

Scenarios: idle, busy, pinned, two, one-core, one-core-default, quota (slow-downs); callers, models (throughput); start;
short-lived. Models: ``resnext`` (made here), ``convolutions`` (its first stage) and any of the zoo. ``--old`` adds a second source
tree of graphopt.
``--quick`` takes about a minute a scenario, for a look. Runtimes run in processes of their own that take turns on a machine that
should do nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import loads
import numpy as np
import onnx
from report import Report, geometric_mean, listed
from resnext import SIZE, resnext
from scenarios import (
    CALLERS,
    LOADS,
    THREADS,
    Runtime,
    Slowdown,
    Throughput,
    idle_servers,
    medians,
    save_artefacts,
    slowdowns,
    thread_costs,
    threads_left,
    throughputs,
)
from serving import Failed, Model, write_feeds

from graphopt.models import zoo

HERE = Path(__file__).resolve().parents[1]
DEFAULT = ("resnext", "squeezenet", "bert_tiny", "digits")
PEERS = ("onnxruntime", "openvino", "mnn")
OURS = "graphopt"
OTHERS = ("callers", "models", "start", "short-lived")
ENOUGH = 0.9
"""Throughput of callers together over that of one caller, and of the best peer."""
START_MS = 1.0
SHORT_LIVED, WAIT_S = 200, 5.0
Figures = dict[str, Any]


def make_model(name: str, folder: Path) -> Model:
    """The model's file, and a set of inputs for each caller."""
    feeds = folder / f"{name}.npz"
    if name in ("resnext", "convolutions"):
        path = folder / f"{name}.onnx"
        onnx.save_model(resnext(stages=4 if name == "resnext" else 1), path)
        seeds = [np.random.default_rng(seed) for seed in range(CALLERS)]
        write_feeds(feeds, [{"image": rng.standard_normal((1, 3, SIZE, SIZE), np.float32)} for rng in seeds])
        return Model(name, path, feeds)
    model = zoo.get(name)
    write_feeds(feeds, [model.inputs(seed) for seed in range(CALLERS)])
    return Model(name, model.path(), feeds)


def peers_of(runtimes: Sequence[Runtime]) -> list[str]:
    """Names of those that aren't graphopt."""
    return [runtime.name for runtime in runtimes if runtime.kind != "graphopt"]


def slowdown_verdict(found: Mapping[str, Slowdown], peers: Sequence[str]) -> str:
    """Whether ours is at most the best peer's; where rounds overlap, that they do."""
    ours = found[OURS]
    able = [found[name] for name in peers if found[name].ratio is not None]
    if ours.ratio is None or not able:
        return ""
    best = min(able, key=lambda peer: peer.ratio or math.inf)
    if best.ratio is None or ours.ratio <= best.ratio:
        return "holds"
    return "within the rounds' spread" if ours.extremes[0] <= best.extremes[1] else "misses"


def measure_loads(
    report: Report,
    names: Sequence[str],
    runtimes: Sequence[Runtime],
    models: Sequence[Model],
    rounds: int,
    seconds: float,
) -> Figures:
    """Table of slow-downs."""
    report.add(
        "## Slow-down", "",
        "Milliseconds of a run under load (mean of all runs, since callers wait for the slow ones, too), and how many times the "
        "median run of the same runtime on the idle machine that is; idle turns alternate with loaded ones. Runtimes have "
        f"{THREADS} threads, also where one core is left. The verdict is graphopt's slow-down against the best peer's.", "",
    )  # fmt: skip
    report.head("model", "load", *(f"{runtime.name} ms" for runtime in runtimes), "verdict")
    peers = peers_of(runtimes)
    ratios: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    missed, absent, figures = [], dict[str, None](), Figures()
    for model in models:
        with idle_servers(runtimes, [model]) as idle:
            for name in names:
                load = LOADS[name]
                try:
                    found = slowdowns(load, runtimes, model, idle, rounds, seconds)
                except loads.Unavailable as error:
                    report.row(model.name, load.title, *[""] * len(runtimes), f"not measured: {error}")
                    continue
                verdict = slowdown_verdict(found, peers) if name != "idle" else ""
                report.row(model.name, load.title, *(_slowdown(found[runtime.name]) for runtime in runtimes), verdict)
                figures.setdefault(model.name, {})[name] = {key: asdict(value) for key, value in found.items()}
                ratios[name][model.name] = {k: f.ratio for k, f in found.items() if f.ratio is not None}
                if verdict and verdict != "holds":
                    missed.append(f"{model.name} {name} ({verdict})")
                for key, value in found.items():
                    if value.problem is not None:
                        absent[f"- {model.name}, {load.title}: {key}: {value.problem}"] = None
    report.add("", "Geometric means of the slow-downs over the models that every runtime of the row runs:", "")
    report.head("load", *(runtime.name for runtime in runtimes))
    for name in names:
        rows = list(ratios[name].values())
        able = [r.name for r in runtimes if any(r.name in row for row in rows)]
        common = [row for row in rows if all(key in row for key in able)]
        means = [f"{geometric_mean(row[r.name] for row in common):.2f}" if r.name in able else "" for r in runtimes]
        report.row(LOADS[name].title, *means)
    report.add("", f"Slower under load than the best peer: {listed(missed)}.", *absent, "")
    return figures


def _slowdown(found: Slowdown) -> str:
    if found.ratio is None:
        return "fails"
    low, high = found.extremes
    return f"{1e3 * statistics.mean(found.loaded_s):.3f} ({found.ratio:.2f}; {low:.2f} to {high:.2f})"


def best_throughput(ours: Throughput, others: Mapping[str, Throughput]) -> tuple[str, float]:
    """The peer that gets most done, and the geometric mean over models of our runs a second over its."""
    against = {
        name: geometric_mean(o / t for o, t in zip(medians(ours.rates), medians(theirs.rates)))
        for name, theirs in others.items()
        if theirs.problem is None
    }
    return min(against.items(), key=lambda item: item[1], default=("none", math.nan))


def measure_callers(
    report: Report,
    names: Sequence[str],
    runtimes: Sequence[Runtime],
    models: Sequence[Model],
    rounds: int,
    seconds: float,
) -> Figures:
    """Table of throughput."""
    report.add(
        "## Throughput", "",
        "Runs a second of all callers together, and how many times what one caller gets done alone in the same process (for "
        "several models each counts by the time that it takes alone). Callers are Python threads with inputs of their own; every "
        "runtime has one model of "
        f"{THREADS} threads for all callers (MNN a session for each). graphopt's results are compared with those of one caller, "
        f"bit for bit. Asked for is {ENOUGH} of one caller's and of the best peer's.", "",
    )  # fmt: skip
    report.head("callers", *(runtime.name for runtime in runtimes), "best peer", "graphopt / best peer", "verdict")
    cases: list[tuple[str, Sequence[Model], list[tuple[int, int]]]] = []
    if "callers" in names:
        cases += [(f"{CALLERS} on {model.name}", [model], [(0, i) for i in range(CALLERS)]) for model in models]
    if "models" in names:
        listing = f"one on each of {listed([model.name for model in models])}"
        cases.append((listing, models, [(i, i) for i in range(len(models))]))
    figures, absent = Figures(), []
    for title, opened, callers in cases:
        found = throughputs(runtimes, opened, callers, rounds, seconds)
        cells = [
            "fails" if f.problem is not None else f"{sum(medians(f.rates)):.0f} ({f.of_single:.2f})"
            for f in (found[runtime.name] for runtime in runtimes)
        ]
        absent += [f"- {title}: {key}: {value.problem}" for key, value in found.items() if value.problem is not None]
        figures[title] = {key: asdict(value) for key, value in found.items()}
        ours = found[OURS]
        if ours.problem is not None:
            report.row(title, *cells, "", "", "misses")
            continue
        best, against = best_throughput(ours, {name: found[name] for name in peers_of(runtimes)})
        reached = min(ours.of_single, against) if best != "none" else ours.of_single
        report.row(title, *cells, best, f"{against:.2f}", "holds" if reached >= ENOUGH else "misses")
    report.add(*["", *absent] if absent else [], "")
    return figures


def measure_start(
    report: Report, runtimes: Sequence[Runtime], models: Sequence[Model], folder: Path, repeat: int
) -> Figures:
    """Table of first runs."""
    report.add(
        "## Start", "",
        "Milliseconds of the first and of later runs of an artefact, medians of fresh processes. What the first run pays beyond "
        f"later ones with {THREADS} threads and not with one, it pays for threads; asked for is under {START_MS:g} ms.", "",
    )  # fmt: skip
    report.head(
        "model", "runtime", "first, 1 thread", "later", f"first, {THREADS} threads", "later", "threads", "verdict"
    )
    figures = Figures()
    for model in models:
        for runtime in (r for r in runtimes if r.kind == "graphopt"):
            try:
                found = thread_costs(runtime, model, save_artefacts(runtime, model, folder), repeat)
            except Failed as error:
                report.row(model.name, runtime.name, *[""] * 5, error)
                continue
            cells = [f"{1e3 * seconds:.3f}" for threads in (1, THREADS) for seconds in found[threads]]
            cost = 1e3 * ((found[THREADS][0] - found[THREADS][1]) - (found[1][0] - found[1][1]))
            report.row(model.name, runtime.name, *cells, f"{cost:.3f}", "holds" if cost < START_MS else "misses")
            figures.setdefault(model.name, {})[runtime.name] = found
    report.add("")
    return figures


def measure_short_lived(report: Report, runtimes: Sequence[Runtime], model: Model) -> Figures:
    """Table of threads that stay."""
    report.add(
        "## Short-lived threads", "",
        f"The process's threads as the system counts them before and {WAIT_S:g} s after {SHORT_LIVED} Python threads have run "
        f"{model.name} on {THREADS} threads once each, eight at a time.", "",
    )  # fmt: skip
    report.head("runtime", "before", "after", "verdict")
    figures = Figures()
    for runtime in runtimes:
        try:
            before, after = threads_left(runtime, model, SHORT_LIVED, WAIT_S)
        except Failed as error:
            report.row(runtime.name, "", "", error)
            continue
        verdict = ("holds" if after <= before else "misses") if runtime.name == OURS else ""
        report.row(runtime.name, before, after, verdict)
        figures[runtime.name] = {"before": before, "after": after}
    report.add("")
    return figures


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, help="a checkout of another commit of graphopt")
    parser.add_argument("--quick", action="store_true", help="two short rounds, for a look")
    parser.add_argument("--rounds", type=int, help="turns of every process (4)")
    parser.add_argument("--seconds", type=float, help="of each turn (1)")
    parser.add_argument("--scenario", nargs="+", choices=[*LOADS, *OTHERS], default=[*LOADS, *OTHERS])
    parser.add_argument("--model", nargs="+", default=DEFAULT)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--json", type=Path, help="all turns")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 4)
    args.seconds = args.seconds or (0.5 if args.quick else 1.0)
    return args


def main() -> None:
    """Measure and print, or write, the report."""
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that loads and processes are taken away
    runtimes = [Runtime(OURS, "graphopt", HERE)]
    if args.old:
        runtimes.append(Runtime("old graphopt", "graphopt", args.old.resolve()))
    runtimes += [Runtime(name, name, HERE) for name in args.peers.split(",") if name]
    report = Report(
        "Threads under load",
        f"Float32, batch 1. Every runtime runs in processes of its own that take turns, {args.rounds} of {args.seconds:g} s each.",
    )
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as temporary:
        folder = Path(temporary)
        models = [make_model(name, folder) for name in args.model]
        asked = [name for name in LOADS if name in args.scenario]
        if asked:
            figures["loads"] = measure_loads(report, asked, runtimes, models, args.rounds, args.seconds)
        if {"callers", "models"} & set(args.scenario):
            figures["throughput"] = measure_callers(report, args.scenario, runtimes, models, args.rounds, args.seconds)
        if "start" in args.scenario:
            tiny = [make_model(name, folder) for name in ("digits", "convolutions")]
            figures["start"] = measure_start(report, runtimes, tiny, folder, 3 if args.quick else 11)
        if "short-lived" in args.scenario:
            figures["short-lived"] = measure_short_lived(report, runtimes, models[0])
    report.write(args.write)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

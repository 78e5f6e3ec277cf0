"""Latency of zoo models against ONNX Runtime, OpenVINO and MNN, in processes that take turns, with the same threads and inputs.

    python benchmarks/zoo.py [--threads 1|2] [--repeat N] [--peers P,P] [--tvm MODEL ...] [--write FILE] [MODEL ...]

Our results are compared with ONNX Runtime's (optimisation disabled) by the tolerance table before anything is timed, and every
peer's with ours. ``--tvm`` adds TVM's own default pipeline for the named models; it takes seconds a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from contest import NOISE, PEERS, Outcome, computes_the_same, contest
from report import Report, geometric_mean, listed, number, plural

import graphopt
from graphopt.models import zoo

DEFAULT = (
    "resnet50", "densenet121", "vgg19", "squeezenet", "shufflenet", "inception_v1", "inception_v2", "bvlc_alexnet", "zfnet512",
    "opennsfw", "nudenet", "ppocr_det", "ppocr_rec", "ppocr_cls", "digits", "silero_vad_op18_ifless",
)  # fmt: skip


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--tvm", nargs="*", default=[])
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    peers = [name for name in args.peers.split(",") if name]
    report = Report(
        f"Zoo models, {plural(args.threads, 'thread')}",
        f"{plural(args.threads, 'thread')}, batch 1 at the zoo's standard shapes, float32. Medians in milliseconds; every "
        "runtime has a process of its own that stands still while others are timed. The ratio is that of the best peer over "
        "graphopt, above 1 we are faster than all. The error is relative to the largest output, against ONNX Runtime without "
        "optimisation.",
    )
    report.head(
        "model",
        "compile s",
        "graphopt ms",
        *(f"{p} ms" for p in [*peers, *(["tvm"] if args.tvm else [])]),
        "best peer",
        "ratio",
        "error",
    )
    outcomes: dict[str, Outcome] = {}
    for name in args.models:
        model = zoo.get(name)
        mine = [*peers, *(["tvm"] if name in args.tvm else [])]
        try:
            found = contest(model.path(), model.inputs(0), args.threads, args.repeat, peers=mine)
        except graphopt.GraphOptError as error:
            report.row(name, error.message, *[""] * (len(peers) + bool(args.tvm) + 4))
            continue
        outcomes[name] = found
        columns = [found.cell(p) for p in [*peers, *(["tvm"] if args.tvm else [])]]
        best = found.best.name if found.best else ""
        report.row(
            name,
            number(found.ours.compile_s, 1),
            number(found.ours.median_ms),
            *columns,
            best,
            number(found.ratio),
            f"{found.error:.0e}",
        )
    summary(report, outcomes, peers)
    report.write(args.write)


def summary(report: Report, outcomes: dict[str, Outcome], peers: list[str]) -> None:
    """Geometric means, losses, and why peers are missing."""
    ratios = {name: found.ratio for name, found in outcomes.items() if found.ratio is not None}
    report.add("", f"Geometric mean of the ratios to the best peer: {geometric_mean(ratios.values()):.2f}.")
    for peer in peers:
        agreeing = [
            found.peers[peer]
            for found in outcomes.values()
            if peer in found.peers and computes_the_same(found.peers[peer])
        ]
        own = [latency.ratio for latency in agreeing]
        report.add(f"Against {peer} alone: {geometric_mean(own):.2f} ({len(own)} models).")
    slower = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1 - NOISE]
    report.add(f"Slower than the best peer by more than {100 * NOISE:.0f}%: {listed(slower)}.")
    missing = [
        *(f"- {name}: {reason}" for name, found in outcomes.items() for reason in found.absent.values()),
        *(
            f"- {name}: {p.name} differs, {p.problem}"
            for name, found in outcomes.items()
            for p in found.peers.values()
            if p.problem
        ),
    ]
    if missing:
        report.add("", "Peers that fail on a model, or whose results are outside the tolerance table:", "", *missing)


if __name__ == "__main__":
    main()

"""Architectures that nobody tuned for, with seeded random weights, against ONNX Runtime, OpenVINO and MNN; static and dynamic.

    python -m venv ENV; ENV/bin/pip install -r benchmarks/requirements-architectures.txt
    python benchmarks/architectures.py --python ENV/bin/python [--folder DIR] [--threads 1,2] [--seconds S] [--form static|dynamic]
                                       [--peers P,P] [--again] [--export] [--write FILE] [NAME ...]

The other Python exports what isn't in the folder yet (1 hour for all, 10 GB); without ``--python`` what is there is measured. Every
row is a contest as in ``zoo.py``: results checked against ONNX Runtime without optimisation, each runtime in a process of its own.
In dynamic rows no runtime knows the sizes before it is called. Results are kept in the folder, and a run that was interrupted
goes on where it stopped, as long as commit, versions and machine are the same; ``--again`` measures anew. ``--export`` stops
before anything is measured.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from architecture_cells import FORMS, Cell, Results, cells_of, export, known
from contest import NOISE, PEERS, Outcome, computes_the_same, contest
from report import Report, geometric_mean, listed, machine, number, plural, versions

import graphopt

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "graphopt-architectures"
LAYERS = 3
"""How many of our slowest kernels are named."""
NEAR = 0.10
"""A dynamic model may be this much slower than the static one."""
ROUNDS = 10_000
"""More than fit: time decides."""


def measured(cell: Cell, threads: int, peers: Sequence[str], seconds: float) -> Outcome | str:
    """What comes out, or why nothing does."""
    try:
        return contest(
            cell.file, cell.feed(), threads, ROUNDS, peers=peers, budget_s=seconds * (len(peers) + 1), dynamic=cell.dynamic,
            layers=LAYERS,
        )  # fmt: skip
    except graphopt.GraphOptError as error:
        return " ".join([error.message, *([f"(node {error.node})"] if error.node else [])])


def table(
    report: Report, cells: Sequence[Cell], found: Mapping[str, Outcome | str], threads: int, peers: Sequence[str]
) -> None:
    """One table and what follows from it."""
    report.add("", f"## {plural(threads, 'thread')}", "")
    report.head(
        "model", "form", "sizes", "compile s", "graphopt ms", *(f"{peer} ms" for peer in peers), "best peer", "ratio", "of static",
        "error", "memory MB", "slowest layers of graphopt",
    )  # fmt: skip
    statics = {(c.name, c.sizes): found[c.key(threads)] for c in cells if not c.dynamic}
    for cell in cells:
        outcome, form = found[cell.key(threads)], FORMS[cell.dynamic]
        if isinstance(outcome, str):
            report.row(cell.name, form, cell.sizes, "", f"fails: {outcome}", *[""] * (len(peers) + 6))
            continue
        static = statics.get((cell.name, cell.sizes)) if cell.dynamic else None
        of_static = static.ours.median_ms / outcome.ours.median_ms if isinstance(static, Outcome) else None
        slow = "; ".join(f"{s.label} ({s.template}) {100 * s.share:.0f}%" for s in outcome.slowest)
        running = outcome.ours.running_bytes
        report.row(
            cell.name, form, cell.sizes, number(outcome.ours.compile_s, 1), number(outcome.ours.median_ms),
            *(outcome.cell(peer) for peer in peers), outcome.best.name if outcome.best else "", number(outcome.ratio),
            number(of_static), f"{outcome.error:.0e}", number(running and running / 2**20, 0), slow.replace("|", "\\|"),
        )  # fmt: skip
    report.add("")
    for form in FORMS:
        ratios = {
            f"{c.name}{f' ({c.sizes})' if c.sizes else ''}": o.ratio
            for c in cells
            if FORMS[c.dynamic] == form and isinstance(o := found[c.key(threads)], Outcome) and o.ratio is not None
        }
        slower = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio < 1 - NOISE]
        report.add(
            f"{form.capitalize()}: geometric mean of the ratios to the best peer {geometric_mean(ratios.values()):.2f} "
            f"({len(ratios)} rows), below {1 - NOISE:.2f}: {listed(slower)}.", "",
        )  # fmt: skip
    far = [
        f"{c.name}{f' ({c.sizes})' if c.sizes else ''} {o.ours.median_ms / s.ours.median_ms:.2f}"
        for c in cells
        if c.dynamic
        and isinstance(o := found[c.key(threads)], Outcome)
        and isinstance(s := statics.get((c.name, c.sizes)), Outcome)
        and o.ours.median_ms > (1 + NEAR) * s.ours.median_ms
    ]
    report.add(f"Dynamic more than {100 * NEAR:.0f}% slower than static, how many times: {listed(far)}.")
    missing = [
        f"- {c.key(threads)}: {reason}"
        for c in cells
        if isinstance(o := found[c.key(threads)], Outcome)
        for reason in [
            *o.absent.values(),
            *(f"{p.name} differs, {p.problem}" for p in o.peers.values() if not computes_the_same(p)),
        ]
    ]
    if missing:
        report.add("", "Peers that fail on a model, or compute something else:", "", *missing)


def main() -> None:
    """Export, measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures; all by default")
    parser.add_argument("--python", type=Path, help="of an environment with requirements-architectures.txt")
    parser.add_argument("--folder", type=Path, default=CACHE)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each runtime in each row")
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    there = sorted({path.name.rpartition("-")[0] for path in args.folder.glob("*-*.onnx")})
    names = args.names or (known(args.python) if args.python else there)
    if args.python:
        failed = export(args.python, args.folder, names, args.again and args.export)
    for file, why in failed.items():
        print(f"{file} can't be exported: {why}")
    if args.export:
        return
    peers = [name for name in args.peers.split(",") if name]
    cells = [cell for cell in cells_of(args.folder, names) if args.form in (None, FORMS[cell.dynamic])]
    results = Results(args.folder / "results.jsonl", f"{versions()}; {machine()}; {','.join(peers)}; {args.seconds}")
    counts = [int(count) for count in args.threads.split(",")]
    found: dict[str, Outcome | str] = {}
    for threads in counts:
        for cell in cells:
            key = cell.key(threads)
            kept = None if args.again else results.get(key)
            if kept is None:
                print(f"measuring {key}", flush=True)
                kept = measured(cell, threads, peers, args.seconds)
                results.put(key, kept)
            found[key] = kept
    report = Report(
        "Architectures that nobody tuned for",
        f"Seeded random weights, float32, batch 1. Medians in milliseconds, about {args.seconds:g} s for each runtime, which has a "
        "process of its own that stands still while others are timed. The ratio is that of the best peer over graphopt, above 1 we "
        "are faster than all; of static is the time of the static row of the same sizes over that of the dynamic one. In dynamic "
        "rows all runtimes have the model with open axes. The error is relative to the largest output, against ONNX Runtime "
        "without optimisation. Memory is what graphopt's process has at most while it runs, beyond libraries and inputs. Layers "
        "are named with the template of their kernel and their part of the time of all kernels.",
    )
    for threads in counts:
        table(report, cells, found, threads, peers)
    if failed:
        report.add(
            "", "Not exported:", "", *(f"- {file}: {why}" for file, why in failed.items() if _asked(file, names))
        )
    report.write(args.write)


def _asked(file: str, names: Sequence[str]) -> bool:
    return file.rpartition("-")[0] in names


if __name__ == "__main__":
    main()

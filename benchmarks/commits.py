"""Two source trees against each other: does a change make the zoo slower, beyond what the machine's noise explains?

    git worktree add /tmp/old COMMIT
    python benchmarks/commits.py /tmp/old [--threads 1|2] [--rounds N] [--compile N] [--write FILE] [MODEL ...]

Every model is compiled and run by three processes that take turns, two of them of the old tree and one of this one. The
second process of the old tree shows what alternation leaves of the machine's noise: a model counts as slower only where the
ratio of new to old lies above everything that old against old gave. ``--compile`` also times cold compilations, each in a
fresh process without the cache of kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import Report, geometric_mean, listed, number, plural
from zoo import DEFAULT

OPEN = ("digits", "bert_tiny", "ppocr_cls", "ppocr_rec", "ppocr_det", "silero_vad_op18_ifless")
"""Models that are also measured with the shapes that their files leave open."""
HERE = Path(__file__).resolve().parents[1]
RUNS = """
print("ready", flush=True)
for line in sys.stdin:
    runs = int(line)
    compiled.run(feed)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        compiled.run(feed)
        times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)
"""
"""How the program of a `Runner` ends: it runs ``compiled`` on ``feed`` as often as it is told, and prints the seconds."""
_RUNNER = """
import json, sys, time
import graphopt
from graphopt.models import zoo
name, _, kind = sys.argv[1].partition(":")
model, threads = zoo.get(name), int(sys.argv[2])
feed = model.inputs(0)
shapes = {} if kind == "open" else {n: a.shape for n, a in feed.items()}
compiled = graphopt.compile(model.path(), "native", threads=threads, shapes=shapes)
compiled.run(feed)
"""
_COMPILER = """
import sys, time
import graphopt
from graphopt.models import zoo
name, _, kind = sys.argv[1].partition(":")
model, threads = zoo.get(name), int(sys.argv[2])
shapes = {} if kind == "open" else {n: a.shape for n, a in model.inputs(0).items()}
path = model.path()
import tvm
start = time.perf_counter()
graphopt.compile(path, "native", threads=threads, shapes=shapes, cache=False)
print(time.perf_counter() - start)
"""


def environment(tree: Path) -> dict[str, str]:
    """This process's environment with ``tree`` first among Python's folders."""
    return {**os.environ, "PYTHONPATH": str(tree)}


class Runner:
    """A process that has compiled a model with one tree and runs it on request; it stands still (SIGSTOP) in between.

    Args:
        tree: the checkout that compiles it.
        model: the first argument of ``source``; a name of the zoo by default.
        threads: how many the model runs on.
        source: the process's program up to ``RUNS``.
    """

    def __init__(self, tree: Path, model: str, threads: int, source: str = _RUNNER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", source + RUNS, model, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(tree), cwd=tree,
        )  # fmt: skip
        self._line()
        self.process.send_signal(signal.SIGSTOP)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of {self.process.args!r} ended: {self.process.wait()}")
        return line

    def run(self, runs: int) -> list[float]:
        """Seconds of each of some runs, after one that isn't timed."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{runs}\n")
        self.process.stdin.flush()
        found: list[float] = json.loads(self._line())
        self.process.send_signal(signal.SIGSTOP)
        return found

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def alternate(runners: Sequence[Runner], rounds: int) -> list[list[float]]:
    """Each runner's median seconds, round by round; who begins changes from round to round."""
    once = runners[0].run(3)
    runs = max(3, min(200, int(0.1 / min(once))))
    times: list[list[float]] = [[] for _ in runners]
    for n in range(rounds):
        for i in range(len(runners)):
            k = (i + n) % len(runners)
            times[k].append(statistics.median(runners[k].run(runs)))
    return times


def compile_seconds(tree: Path, model: str, threads: int) -> float:
    """Seconds of one cold compilation in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _COMPILER, model, str(threads)],
        env=environment(tree), cwd=tree, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def spread(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest ratio between the two, whichever is called the new one."""
    ratio = statistics.median(second) / statistics.median(first)
    return min(ratio, 1 / ratio), max(ratio, 1 / ratio)


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("models", nargs="*", default=[*DEFAULT, *(f"{name}:open" for name in OPEN)])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", type=int, default=0, metavar="N", help="cold compilations of each model and tree")
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    old = args.old.resolve()
    before = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=old, capture_output=True, text=True, check=True
    ).stdout.strip()
    report = Report(
        f"This commit against {before}, {plural(args.threads, 'thread')}",
        f"Milliseconds are medians of {args.rounds} rounds of three processes that take turns: two of {before}, one of this "
        'commit. "old / old" is what the two equal ones differ by. "open" models were compiled with symbolic shapes.',
    )
    report.head(
        "model",
        "old ms",
        "new ms",
        "new / old",
        "old / old",
        *(["old compile s", "new compile s"] * bool(args.compile)),
    )
    ratios: dict[str, float] = {}
    noise: dict[str, float] = {}
    compiled: dict[str, Any] = {}
    for name in args.models:
        runners = [Runner(tree, name, args.threads) for tree in (old, old, HERE)]
        first, second, new = alternate(runners, args.rounds)
        for runner in runners:
            runner.close()
        base = statistics.median([*first, *second])
        ratios[name] = statistics.median(new) / base
        noise[name] = spread(first, second)[1]
        cells = [
            f"{1e3 * base:.3f}",
            f"{1e3 * statistics.median(new):.3f}",
            f"{ratios[name]:.3f}",
            f"{noise[name]:.3f}",
        ]
        if args.compile:
            pairs = [[compile_seconds(t, name, args.threads) for t in (old, HERE)] for _ in range(args.compile)]
            compiled[name] = [statistics.median(side) for side in zip(*pairs)]
            cells += [number(s, 1) for s in compiled[name]]
        report.row(name, *cells)
    summary(report, ratios, noise, compiled)
    report.write(args.write)


def summary(report: Report, ratios: dict[str, float], noise: dict[str, float], compiled: dict[str, Any]) -> None:
    """Geometric means, and which models are slower than noise explains."""
    report.add(
        "", f"Geometric mean of new over old: {geometric_mean(ratios.values()):.3f}; below 1 this commit is faster."
    )
    worst = max(noise.values())
    slower = [f"{name} ({r:.3f})" for name, r in ratios.items() if r > max(noise[name], worst)]
    report.add(
        f"The two processes of the old commit differ by up to {worst:.3f}. Slower beyond that: {listed(slower)}."
    )
    if compiled:
        mean = geometric_mean(new / old for old, new in compiled.values())
        report.add(f"Geometric mean of cold compile seconds, new over old: {mean:.2f}.")


if __name__ == "__main__":
    main()

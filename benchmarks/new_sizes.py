"""What the first call at a new size costs in models whose sizes are open, and whether memory stays flat over many sizes.

    python benchmarks/new_sizes.py [--threads 1|2] [--sizes N] [--seconds S] [--folder FOLDER] [--write FILE] [MODEL ...]

Models are those of the zoo with open sizes and, with ``--folder``, the dynamic ones that ``architectures.py --export`` left
there. Each runs in a process of its own. The largest size comes first, as memory grows with the largest that was seen; then sizes
are drawn at random, seeded: a batch of 1 to 3, other extents of half to one and a half times the usual ones, in steps of 32 where
the model refuses others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from architecture_cells import cells_of
from commits import OPEN
from report import Report, geometric_mean, listed, number, plural

import graphopt
from graphopt.models import zoo

AGAIN = 4
"""Calls at a size after its first one."""
COARSE = 32
"""Steps of what takes not every extent, such as images of nets that halve them five times."""
TARGET = 2.0
SETTLED = 100
"""Sizes before memory is looked at: by then allocators have their pools."""
MOST_GROWTH = 0.02
FEWEST = 3
MOST_REFUSED = 20
Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Sizes:
    """Feeds of a compiled model at any extents of its open axes.

    Attributes:
        usual: of each open axis its usual extent.
        steps: of each axis that may change, what its extents are multiples of.
    """

    def __init__(self, open_shapes: Mapping[str, Sequence[Any]], arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._axes = {
            name: [None if isinstance(extent, int) else str(extent) for extent in shape]
            for name, shape in open_shapes.items()
        }
        self.usual: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        for name, axes in self._axes.items():
            for axis, extent in zip(axes, arrays[name].shape):
                if axis is not None:
                    self.usual.setdefault(axis, extent)

    def probe(self, model: graphopt.CompiledModel) -> None:
        """Find out in which steps each axis can change while the others keep their usual extents."""
        for axis, usual in self.usual.items():
            for step in (1, COARSE):
                if usual < step:
                    continue
                ends = [max(end // step, 1) * step for end in _range(usual)]
                near = [max(usual // step + steps, 1) * step for steps in (-20, -1, 1, 20)] if usual > 1 else []
                tries = {extent for extent in (*ends, *near) if ends[0] <= extent <= ends[1]}
                try:
                    for extent in tries:
                        model.run(self.feed({**self.usual, axis: extent}))
                except graphopt.GraphOptError:
                    continue
                self.steps[axis] = step
                break

    def largest(self) -> dict[str, int]:
        """The most that `drawn` gives of each axis."""
        return {
            a: n if a not in self.steps else _range(n)[1] // self.steps[a] * self.steps[a]
            for a, n in self.usual.items()
        }

    def drawn(self, rng: np.random.Generator) -> dict[str, int]:
        """Random extents."""
        found = dict(self.usual)
        for axis, step in self.steps.items():
            least, most = _range(self.usual[axis])
            found[axis] = int(rng.integers(max(least // step, 1), most // step + 1)) * step
        return found

    def feed(self, extents: Mapping[str, int]) -> dict[str, Array]:
        """The usual arrays, repeated and cut to the extents."""
        return {
            name: np.resize(array, [n if a is None else extents[a] for a, n in zip(self._axes[name], array.shape)])
            for name, array in self._arrays.items()
        }


def _range(usual: int) -> tuple[int, int]:
    """The least and the most extent of an axis."""
    return (1, 3) if usual <= 1 else (usual // 2, usual * 3 // 2)


def resident_bytes() -> int:
    """Of this process, on Linux."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def measure(path: Path, arrays: Mapping[str, Array], threads: int, sizes: int, budget_s: float) -> dict[str, Any]:
    """Compile, run at random sizes until there were enough or time is up, and report milliseconds and megabytes."""
    model = graphopt.compile(path, "native", threads=threads)
    source = Sizes({item.name: item.shape for item in model.inputs}, arrays)
    rng = np.random.default_rng(0)
    refused = 0
    first, later, resident = list[float](), list[float](), list[int]()
    model.run(source.feed(source.usual))
    source.probe(model)
    model.run(source.feed(source.largest()))
    if not source.steps:
        return {"problem": "takes no size but the usual one"}
    before = source.usual
    end = time.monotonic() + budget_s
    while len(first) < sizes and (time.monotonic() < end or len(first) < FEWEST):
        extents = source.drawn(rng)
        if extents == before:
            continue
        feed = source.feed(extents)
        try:
            times = [timed(model, feed) for _ in range(1 + AGAIN)]
        except graphopt.GraphOptError as error:
            refused += 1
            if refused > MOST_REFUSED:  # sizes that the axes allow alone, but not together
                return {"problem": error.message}
            continue
        before = extents
        first.append(times[0])
        later.append(statistics.median_low(times[1:]))
        resident.append(resident_bytes())
    ratios = [a / b for a, b in zip(first, later)]
    settled = resident[min(SETTLED, len(resident) // 2) :]
    return {
        "sizes": len(first),
        "first_ms": 1e3 * statistics.median(first),
        "later_ms": 1e3 * statistics.median(later),
        "ratio": statistics.median(ratios),
        "ratio_95": float(np.quantile(ratios, 0.95)),
        "settled_mb": settled[0] / 2**20,
        "end_mb": settled[-1] / 2**20,
    }


def timed(model: graphopt.CompiledModel, feed: Mapping[str, Array]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    model.run(feed)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="by default all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0, help="after which a model has had enough sizes")
    parser.add_argument("--folder", type=Path, help="of exported architectures")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        path, arrays = Path(args.one[0]), dict(np.load(args.one[1]))
        print(json.dumps(measure(path, arrays, args.threads, args.sizes, args.seconds)))
        return
    report = Report(
        f"New sizes in dynamic models, {plural(args.threads, 'thread')}",
        f"The first call at a size that differs from the one before against the next {AGAIN} at the same size: median "
        f"milliseconds, and the median and 95th percentile of the ratio. Resident memory after {SETTLED} sizes (or half of "
        "them) and at the end.",
    )
    report.head("model", "sizes", "first ms", "next ms", "ratio", "95%", "MB settled", "MB at the end")
    ratios, slow, grown = [], list[str](), list[str]()
    for name, path, arrays in models(args.models, args.folder):
        found = in_process(path, arrays, args)
        if "problem" in found:
            report.row(name, found["problem"], *[""] * 6)
            continue
        report.row(
            name, found["sizes"], number(found["first_ms"], 3), number(found["later_ms"], 3), number(found["ratio"]),
            number(found["ratio_95"]), number(found["settled_mb"], 0), number(found["end_mb"], 0),
        )  # fmt: skip
        ratios.append(found["ratio"])
        slow += [name] if found["ratio"] > TARGET else []
        grown += [name] if found["end_mb"] > found["settled_mb"] * (1 + MOST_GROWTH) + 1 else []
    report.add("", f"Geometric mean of the ratios: {geometric_mean(ratios):.2f}. Above {TARGET:.0f}: {listed(slow)}.")
    report.add(f"Memory grows by more than {100 * MOST_GROWTH:.0f}% and 1 MB: {listed(grown)}.")
    report.write(args.write)


def models(names: Sequence[str], folder: Path | None) -> Iterator[tuple[str, Path, dict[str, Array]]]:
    """Names, files and usual inputs."""
    for name in OPEN:
        if not names or name in names:
            yield name, zoo.get(name).path(), dict(zoo.get(name).inputs(0))
    if folder is None:
        return
    found = sorted(file.name.removesuffix("-dynamic.onnx") for file in folder.glob("*-dynamic.onnx"))
    for name in found:
        if names and name not in names:
            continue
        cell = next(cell for cell in cells_of(folder, [name]) if cell.dynamic)
        yield name, cell.file, cell.feed()


def in_process(path: Path, arrays: Mapping[str, Array], args: argparse.Namespace) -> dict[str, Any]:
    """What `measure` finds in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **arrays)  # type: ignore[arg-type]
        command = [sys.executable, __file__, "--one", str(path), str(inputs), "--threads", str(args.threads)]
        command += ["--sizes", str(args.sizes), "--seconds", str(args.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"problem": done.stderr.strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()

"""Seconds until something runs: from an artefact, and from an ONNX model with an empty and a filled cache of kernels.

    python benchmarks/startup.py [--threads 1|2] [--repeat N] [--write FILE] [MODEL ...]

Every figure comes from fresh processes. The cache lies in a temporary folder given by ``GRAPHOPT_CACHE``; the files of models were
read before, so that disks don't count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from report import Report, listed, number, plural

from graphopt.models import zoo

DEFAULT = ("resnet50", "vgg19", "nudenet")
LIMITS = {"cold": 20.0, "warm": 2.0, "start": 0.3}
"""Seconds: first and second compilation, load and first inference beyond the import of TVM."""

_COMMON = """
import json, sys, time
import numpy as np
path, arrays, threads, artifact = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
with np.load(arrays) as archive:
    feed = {bytes.fromhex(key[1:]).decode(): archive[key] for key in archive.files}
open(path, "rb").read()
"""
_COMPILE = (
    _COMMON
    + """
import tvm
start = time.perf_counter()
import graphopt
model = graphopt.compile(path, "native", threads=threads, shapes={name: a.shape for name, a in feed.items()})
compiled = time.perf_counter()
if artifact:
    model.save(artifact)
else:
    model.run(feed)
print(json.dumps({"compile": compiled - start}))
"""
)
_START = (
    _COMMON
    + """
begin = time.perf_counter()
import tvm
start = time.perf_counter()
import graphopt
model = graphopt.load(path)
loaded = time.perf_counter()
model.run(feed)
first = time.perf_counter()
model.run(feed)
print(json.dumps({"import": start - begin, "load": loaded - start, "first": first - loaded, "next": time.perf_counter() - first}))
"""
)


def child(code: str, cache: str, *arguments: object) -> dict[str, float]:
    """What a fresh process with that cache folder reports, in seconds.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=1200, check=False, env={**os.environ, "GRAPHOPT_CACHE": cache},
    )  # fmt: skip
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
        raise RuntimeError((lines or ["fails"])[-1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def median(results: list[dict[str, float]]) -> dict[str, float]:
    """Median of every figure."""
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def main() -> None:
    """Measure and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    report = Report(
        f"Compilation and start, {plural(args.threads, 'thread')}",
        f"Seconds in fresh processes beyond `import tvm`, which is shown for itself; medians of {args.repeat}. Cold: empty cache "
        "of compiled kernels; warm: the same compilation again. Start: load of the artefact and first inference.",
    )
    report.head(
        "model", "cold compile", "warm compile", "artefact MB", "import tvm", "load", "first run", "next run", "start"
    )
    over: list[str] = []
    for name in args.models:
        model = zoo.get(name)
        path, feed = model.path(), model.inputs(0)
        colds, warms, starts = [], [], []
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            arrays, artifact = Path(folder) / "feed.npz", Path(folder) / "model.gopt"
            np.savez(arrays, **{"x" + key.encode().hex(): array for key, array in feed.items()})
            try:
                for i in range(args.repeat):
                    cache = str(Path(folder) / f"cache{i}")
                    colds.append(child(_COMPILE, cache, path, arrays, args.threads, artifact if not i else ""))
                    warms.append(child(_COMPILE, cache, path, arrays, args.threads, ""))
                starts = [child(_START, cache, artifact, arrays, args.threads, "") for _ in range(args.repeat)]
            except RuntimeError as error:
                report.row(name, error, *[""] * 7)
                continue
            size = artifact.stat().st_size / 2**20
        cold, warm, start = median(colds)["compile"], median(warms)["compile"], median(starts)
        both = start["load"] + start["first"]
        parts = [number(start[key], 3) for key in ("import", "load", "first", "next")]
        report.row(name, number(cold, 1), number(warm), number(size, 0), *parts, number(both, 3))
        found = {"cold": cold, "warm": warm, "start": both}
        over += [f"{name} {key} ({found[key]:.2f} s)" for key, limit in LIMITS.items() if found[key] > limit]
    limits = ", ".join(f"{key} {limit:g} s" for key, limit in LIMITS.items())
    report.add("", f"Over the limits ({limits}): {listed(over)}.")
    report.write(args.write)


if __name__ == "__main__":
    main()

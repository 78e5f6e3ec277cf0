"""Cycles that LLVM's model of a processor gives to instructions that run over and over, by ``llvm-mca``.

The model knows ports, latencies, the width at which instructions are decoded and the depth of the reorder buffer. It knows
nothing of caches, of the memory behind them, of mispredicted branches and of stores that loads wait for. LLVM 19 lets a Cortex-A55
start two multiply-adds of 128-bit vectors a cycle where it has pipes for one (and one for other arithmetic on them), so that no
sequence takes fewer cycles here than its multiply-adds need. Its Neoverse N1 forwards no sums: an accumulator is ready after 4
cycles, not after 2, which matters to sequences of less than 8 accumulators.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from arm_code import Trace, is_wide_multiply_add
from arm_emulation import cache_folder

_LLVM_MCA = "llvm-mca-19"
_BATCH = 200
_LEAST = 1200
"""Instructions that run before the time is taken, so that the reorder buffer is full."""


@dataclass(frozen=True)
class Core:
    """A processor of LLVM's.

    Attributes:
        name: as ``-mcpu`` takes it.
        dispatch: instructions that it decodes a cycle; 0 where LLVM's model has the right number.
        multiply_adds: of 128-bit vectors that it can start a cycle.
    """

    name: str
    dispatch: int
    multiply_adds: float


NEOVERSE_N1 = Core("neoverse-n1", 4, 2)
CORTEX_A55 = Core("cortex-a55", 0, 1)
CORES = {core.name: core for core in (NEOVERSE_N1, CORTEX_A55)}


@dataclass(frozen=True)
class Modelled:
    """Cycles of a program.

    Attributes:
        cycles: of all of it.
        covered: part of the instructions that was modelled; the others count as these do on average.
        unknown: instructions among the modelled that LLVM's model doesn't know; they count as nothing.
    """

    cycles: float
    covered: float
    unknown: int


def modelled(found: Iterable[Trace], core: Core, cover: float = 0.995) -> Modelled:
    """Cycles of the traces that make most of a program, scaled to all of it."""
    traces = sorted(found, key=lambda trace: -trace.executed)
    total = sum(trace.executed for trace in traces)
    chosen, executed = [], 0
    for trace in traces:
        if executed >= cover * total:
            break
        chosen.append(trace)
        executed += trace.executed
    times = steady_cycles([trace.texts for trace in chosen], core)
    cycles = sum(trace.count * times[trace.texts][0] for trace in chosen)
    unknown = sum(trace.count * times[trace.texts][1] for trace in chosen)
    return Modelled(cycles * total / executed if executed else 0.0, executed / total if total else 0.0, unknown)


def steady_cycles(bodies: Sequence[tuple[str, ...]], core: Core) -> dict[tuple[str, ...], tuple[float, int]]:
    """Cycles that each sequence takes when it is repeated for long, and how many of its instructions the model doesn't know."""
    with closing(_Cache(core)) as cache:
        new = [body for body in dict.fromkeys(bodies) if cache.get(body) is None]
        for start in range(0, len(new), _BATCH):
            for body, found in zip(
                new[start : start + _BATCH], _measure(new[start : start + _BATCH], core), strict=True
            ):
                cache.put(body, found)
            cache.save()
        result = {}
        for body in bodies:
            held = cache.get(body)
            assert held is not None
            result[body] = held
    return result


def _measure(bodies: Sequence[tuple[str, ...]], core: Core) -> list[tuple[float, int]]:
    """Of a warm-up and of three times it, the difference."""
    by_repeats: dict[int, list[int]] = {}
    for index, body in enumerate(bodies):
        by_repeats.setdefault(-(-_LEAST // len(body)), []).append(index)
    found: list[tuple[float, int]] = [(0.0, 0)] * len(bodies)
    for repeats, indices in by_repeats.items():
        some = [bodies[i] for i in indices]
        short, long = (_total_cycles(some, core, n) for n in (repeats, 3 * repeats))
        for i, (a, _), (b, known) in zip(indices, short, long, strict=True):
            least = sum(map(is_wide_multiply_add, bodies[i])) / core.multiply_adds
            found[i] = (max((b - a) / (2 * repeats), least), len(bodies[i]) - known)
    return found


def _total_cycles(bodies: Sequence[tuple[str, ...]], core: Core, iterations: int) -> list[tuple[int, int]]:
    """Cycles of so many iterations of each, and how many instructions of one are known."""
    lines = []
    for index, body in enumerate(bodies):
        lines += [f"# LLVM-MCA-BEGIN r{index}", *map(_without_calls, body), f"# LLVM-MCA-END r{index}"]
    command = [
        _LLVM_MCA, "-mtriple=aarch64", f"-mcpu={core.name}", f"-iterations={iterations}", "-json",
        "--skip-unsupported-instructions=any", *([f"-dispatch={core.dispatch}"] if core.dispatch else []),
    ]  # fmt: skip
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{_LLVM_MCA} fails: {done.stderr.strip()[-500:]}")
    found = {region["Name"]: region["SummaryView"] for region in json.loads(done.stdout)["CodeRegions"]}
    views = [found.get(f"r{index}") for index in range(len(bodies))]  # none of a body that is all unknown
    return [(v["TotalCycles"], v["Instructions"] // v["Iterations"]) if v else (0, 0) for v in views]


def _without_calls(text: str) -> str:
    """A call as the branch that it is: LLVM's would take the time of a whole function."""
    return re.sub(r"^bl(r?) ", r"b\1 ", text)


class _Cache:
    """Figures by core and text, in a database that several processes may use."""

    def __init__(self, core: Core) -> None:
        version = subprocess.run([_LLVM_MCA, "--version"], capture_output=True, text=True, check=True).stdout
        key = hashlib.sha256(repr((core, version, Path(__file__).read_bytes())).encode()).hexdigest()[:12]
        self.held = sqlite3.connect(cache_folder() / f"cycles-{core.name}-{key}.sqlite", timeout=60)
        with self.held:
            self.held.execute("CREATE TABLE IF NOT EXISTS figures (text PRIMARY KEY, cycles REAL, unknown INTEGER)")

    @staticmethod
    def _key(body: tuple[str, ...]) -> str:
        return hashlib.sha256("\n".join(body).encode()).hexdigest()[:24]

    def get(self, body: tuple[str, ...]) -> tuple[float, int] | None:
        """Cycles and unknown instructions."""
        row = self.held.execute("SELECT cycles, unknown FROM figures WHERE text = ?", (self._key(body),)).fetchone()
        return None if row is None else (float(row[0]), int(row[1]))

    def put(self, body: tuple[str, ...], found: tuple[float, int]) -> None:
        """Keep a figure."""
        self.held.execute("INSERT OR REPLACE INTO figures VALUES (?, ?, ?)", (self._key(body), *found))

    def save(self) -> None:
        """Let other processes see what was put."""
        self.held.commit()

    def close(self) -> None:
        """Give the file back."""
        self.held.close()

"""Instructions and modelled cycles of one inference on an ARM core, against ONNX Runtime's and MNN's aarch64 wheels.

    python benchmarks/arm.py [--types float32,fp16,int8] [--target T] [--cpu CPU] [--write FILE] [MODEL ...]

Everything is counted under qemu-aarch64, on any machine: no ARM machine is needed, and no time is measured. Every runtime is on one
thread, and what is counted is the second inference. What was counted is kept in the user's cache, of peers for each model and
version, of ours for as long as the compiled code stays the same. Needs Debian's qemu-user, g++-aarch64-linux-gnu and llvm-19.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from arm_code import Trace
from arm_cycles import CORTEX_A55, NEOVERSE_N1, Core, modelled
from arm_ours import compile_for, count
from arm_peers import count_peer
from arm_subjects import ABOUT, FLOAT, QUANTIZED, Subject, subject
from arm_sysroot import CPUS, versions
from precision import Arrays, by_onnxruntime, sqnr
from report import Report, geometric_mean, listed, number

TYPES = ("float32", "fp16", "int8")
OURS, ORT, MNN = "graphopt", "ONNX Runtime", "MNN"
PEERS: dict[str, dict[str, tuple[str, str]]] = {
    "float32": {ORT: ("onnxruntime", "high"), MNN: ("mnn", "high")},
    "fp16": {MNN: ("mnn", "low")},
    "int8": {ORT: ("onnxruntime", "high"), MNN: ("mnn", "high")},
}
"""What each runs with; ONNX Runtime computes float32 models in float32 only."""
CORES = (NEOVERSE_N1, CORTEX_A55)
_WRONG_DB = 10


@dataclass(frozen=True)
class Cost:
    """One inference.

    Attributes:
        instructions: in millions.
        cycles: in millions, of each core.
        unknown: instructions that the cores' models don't know, in millions.
        exactness: signal to noise in dB against ONNX Runtime without optimisation on x86, which gets the same file.
    """

    instructions: float
    cycles: dict[str, float]
    unknown: float
    exactness: float


@dataclass
class Row:
    """A model in one type: costs by runtime, and why one is missing."""

    name: str
    costs: dict[str, Cost] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def of_best(self, cost: Callable[[Cost], float]) -> float | None:
        """Ours over the best peer's; None where there is no peer or we are missing."""
        peers = [cost(found) for name, found in self.costs.items() if name != OURS]
        return cost(self.costs[OURS]) / min(peers) if peers and OURS in self.costs else None


def cost_of(traces: Sequence[Trace], outputs: Arrays, want: Arrays) -> Cost:
    """Add up, model and compare."""
    found = {core.name: modelled(traces, core) for core in CORES}
    shared = {name: outputs[name] for name in want}
    return Cost(
        sum(trace.executed for trace in traces) / 1e6,
        {name: times.cycles / 1e6 for name, times in found.items()},
        max(times.unknown for times in found.values()) / 1e6,
        sqnr([shared], [want]),
    )


def row_of(item: Subject, kind: str, target: str, cpu: str) -> Row:
    """Count everybody on one model."""
    (want,) = by_onnxruntime(item.path.read_bytes(), [item.feed])
    row = Row(item.name)
    model = compile_for(item.path, item.feed, target, "fp16" if kind == "fp16" else None)
    ours = count(model, item.feed, cpu)
    row.costs[OURS] = cost_of(ours.found, ours.outputs, want)
    for name, (runtime, precision) in PEERS[kind].items():
        try:
            peer = count_peer(runtime, item, cpu, precision)
        except RuntimeError as error:  # a peer that refuses is a result
            row.absent[name] = str(error)
            continue
        named = {key: peer.outputs[key] for key in want} if set(want) <= set(peer.outputs) else None
        if named is None:  # MNN renames outputs whose names have signs in them
            named = dict(zip(want, peer.outputs.values(), strict=True))
        shaped = {key: array.reshape(want[key].shape) for key, array in named.items()}
        row.costs[name] = cost_of(peer.found, shaped, want)
    return row


def tables(report: Report, kind: str, rows: Sequence[Row]) -> None:
    """All that is said of one type."""
    names = [OURS, *PEERS[kind]]
    report.add(f"### Instructions, {kind}", "")
    instruction_table(report, names, rows)
    report.add(f"### Modelled cycles, {kind}", "")
    cycle_table(report, names, rows)
    remarks(report, rows)


def instruction_table(report: Report, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Instructions, their ratio and exactness."""
    report.head("model", *(f"{name}, M" for name in names), "of the best", *(f"{name}, dB" for name in names))
    for row in rows:
        counts = [number(row.costs[n].instructions, 1) if n in row.costs else "refused" for n in names]
        exact = [number(row.costs[n].exactness, 1) if n in row.costs else "" for n in names]
        report.row(row.name, *counts, number(row.of_best(lambda cost: cost.instructions)), *exact)
    mean = geometric_mean(filter(None, (row.of_best(lambda cost: cost.instructions) for row in rows)))
    report.add("", f"Geometric mean of the ratios: {mean:.2f}.", "")


def cycle_table(report: Report, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Cycles and their ratio on each core."""
    columns: list[str] = []
    for core in CORES:
        columns += [*(f"{core.name}: {name}, M" for name in names), "of the best"]
    report.head("model", *columns)
    for row in rows:
        cells: list[str] = []
        for core in CORES:
            cells += [number(row.costs[n].cycles[core.name], 1) if n in row.costs else "refused" for n in names]
            cells.append(number(row.of_best(_cycles_of(core))))
        report.row(row.name, *cells)
    means = [geometric_mean(filter(None, (row.of_best(_cycles_of(core)) for row in rows))) for core in CORES]
    ratios = ", ".join(f"{mean:.2f} on {core.name}" for mean, core in zip(means, CORES, strict=True))
    report.add("", f"Geometric means of the ratios: {ratios}.", "")


def remarks(report: Report, rows: Sequence[Row]) -> None:
    """What no number of the tables says."""
    costs = [(row.name, name, cost) for row in rows for name, cost in row.costs.items()]
    unknown = [f"{c.unknown:.3f} M of {name} on {model}" for model, name, c in costs if c.unknown]
    if unknown:
        report.add(f"Instructions that a core's model doesn't know, and that cost nothing: {listed(unknown)}.", "")
    wrong = [f"{name} on {model}" for model, name, c in costs if name != OURS and c.exactness < _WRONG_DB]
    if wrong:
        report.add(
            f"Results below {_WRONG_DB} dB aren't the file's, but are counted all the same: {listed(wrong)}.", ""
        )
    refused = [f"- {row.name}: {name} refuses: {why[:200]}" for row in rows for name, why in row.absent.items()]
    if refused:
        report.add(*refused, "")


def _cycles_of(core: Core) -> Callable[[Cost], float]:
    return lambda cost: cost.cycles[core.name]


def narrowing(report: Report, wide: Sequence[Row], narrow: Sequence[Row]) -> None:
    """What 16 bits save us."""
    floats = {row.name: row.costs[OURS] for row in wide}
    report.add("### Our fp16 over our float32", "")
    report.head("model", "instructions", *(f"cycles, {core.name}" for core in CORES))
    for row in narrow:
        before, after = floats[row.name], row.costs[OURS]
        cycles = [number(after.cycles[core.name] / before.cycles[core.name]) for core in CORES]
        report.row(row.name, number(after.instructions / before.instructions), *cycles)
    report.add("")


def main() -> None:
    """Count and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--target", default="arm:neoverse-n1")
    parser.add_argument("--cpu", default="neoverse-n1", choices=CPUS, help="what runs it under qemu")
    parser.add_argument("--write", type=Path)
    args = parser.parse_intermixed_args()
    wheels = ", ".join(f"{name} {version}" for name, version in versions().items())
    report = Report(
        f"ARM: {args.target} against aarch64 wheels",
        f"One inference on one thread, batch 1, counted under qemu-aarch64 -cpu {args.cpu}, in millions; the wheels are {wheels}. "
        "The ratios are of ours over the best peer's, below 1 we need less. dB are signal to noise of the worst output against "
        "ONNX Runtime without optimisation on x86, which gets the same file (fp16: the float32 one); MNN takes no QDQ and gets the "
        "float32 file quantized by its own tool on the same inputs. Cycles are what llvm-mca-19 gives for the sequences "
        "that make 99.5% of the instructions, each repeated for long, neoverse-n1 with 4 instructions decoded a cycle; the code "
        f"is the same for both cores, made for {args.target}, and by the peers chosen for {args.cpu}. The model has no caches, no "
        "memory, no mispredicted branches and no stores that loads wait for.",
    )
    found: dict[str, list[Row]] = {}
    for kind in args.types.split(","):
        known = QUANTIZED if kind == "int8" else FLOAT
        names = [name for name in args.models or known if name in known]
        found[kind] = []
        for name in names:
            found[kind].append(row_of(subject(name, kind == "int8"), kind, args.target, args.cpu))
            print(f"{name}, {kind}: counted", file=sys.stderr, flush=True)
        tables(report, kind, found[kind])
    if {"float32", "fp16"} <= set(found):
        narrowing(report, found["float32"], found["fp16"])
    about = [f"{name} is {what}" for name, what in ABOUT.items()]
    report.add(f"{'; '.join(about)}. The others are the zoo's at their standard shapes.")
    report.write(args.write)


if __name__ == "__main__":
    main()

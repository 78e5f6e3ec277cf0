"""Where the instructions and modelled cycles of a model compiled for ARM go, kernel by kernel, counted under qemu.

    python benchmarks/arm_kernels.py [--target T] [--cpu CPU] [--core CORE] [--precision P] [--quantized] [--top N] [--loops]
        [--show KERNEL] [--peer mnn|onnxruntime] [--write FILE] MODEL ...

A MODEL is one of ``arm.py`` or of the zoo, or an ONNX file (every open dimension is 1 then). "FMA" is how many vector
multiply-adds run a modelled cycle, in percent of what the core can start; the other columns are parts of the kernel's instructions
in percent. ``--loops`` shows the sequence that runs most in each kernel instead, and ``--show`` prints its instructions. ``--peer``
shows the sequences of a peer that run most: it has no kernels with names.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from arm_code import KINDS, Trace
from arm_cycles import CORES, Core, modelled, steady_cycles
from arm_ours import Counted, Feed, compile_for, count
from arm_peers import count_peer
from arm_subjects import subject
from arm_sysroot import CPUS
from report import Report, number

from graphopt.backends.program.program import KernelStep

ELSEWHERE = "(runtime, C library)"


def source_and_feed(name: str, quantized: bool = False) -> tuple[Path, Feed]:
    """A named model with its inputs, or a file with random numbers in [0, 1), integers 0 and 1."""
    path = Path(name)
    if not path.exists():
        named = subject(name, quantized)
        return named.path, named.feed
    rng = np.random.default_rng(0)
    proto = onnx.load_model(path, load_external_data=False)
    constants = {item.name for item in proto.graph.initializer}
    feed = {}
    for item in proto.graph.input:
        if item.name in constants:
            continue
        held = item.type.tensor_type
        shape = [dim.dim_value or 1 for dim in held.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(held.elem_type)
        feed[item.name] = (rng.random(shape) * (1 if dtype.kind == "f" else 2)).astype(dtype)
    return path, feed


def by_kernel(found: Counted) -> dict[str, list[Trace]]:
    """Traces of each kernel, the kernel with most instructions first."""
    kernels: dict[str, list[Trace]] = defaultdict(list)
    for trace in found.found:
        kernels[found.kernel(trace) or ELSEWHERE].append(trace)
    order = sorted(kernels, key=lambda name: -sum(t.executed for t in kernels[name]))
    return {name: kernels[name] for name in order}


def kinds_of(traces: Sequence[Trace]) -> Counter[str]:
    """Instructions of each kind that ran."""
    kinds: Counter[str] = Counter()
    for trace in traces:
        for kind, times in trace.kinds().items():
            kinds[kind] += times * trace.count
    return kinds


def steps_of(found: Counted) -> dict[str, list[KernelStep]]:
    """Calls of each kernel."""
    assert found.model.program is not None
    steps: dict[str, list[KernelStep]] = defaultdict(list)
    for step in found.model.program.steps:
        if isinstance(step, KernelStep):
            steps[step.function].append(step)
    return steps


def shape_of(step: KernelStep) -> str:
    """Template, configuration and the shapes that it reads and writes."""
    shapes = " ".join("x".join(map(str, b.type.shape)) for b in (*step.inputs[:1], *step.outputs))
    return f"{step.template} {step.config.partition('(')[2].rstrip(')')} | {step.inputs and shapes}"


def kernel_table(report: Report, found: Counted, core: Core, top: int) -> None:
    """A row a kernel."""
    kernels = by_kernel(found)
    steps = steps_of(found)
    total = sum(trace.executed for trace in found.found)
    cycles = {name: modelled(traces, core).cycles for name, traces in kernels.items()}
    whole = sum(cycles.values())
    head = ("kernel", "calls", "M instr", "%", "M cycles", "%", "FMA")
    report.head(*head, *KINDS, "template", "shapes")
    listed = [*list(kernels)[:top], None] if top else [*kernels, None]
    for name in listed:
        traces = found.found if name is None else kernels[name]
        executed = sum(trace.executed for trace in traces)
        kinds = kinds_of(traces)
        spent = whole if name is None else cycles[name]
        calls = steps.get(name or "", [])
        report.row(
            name or "all",
            len(calls) or "",
            number(executed / 1e6, 3),
            number(100 * executed / total, 1),
            number(spent / 1e6, 3),
            number(100 * spent / whole, 1),
            number(100 * kinds["multiply-add"] / spent / core.multiply_adds, 0),
            *(number(100 * kinds[kind] / executed, 1) for kind in KINDS),
            *(shape_of(calls[0]).split(" | ") if calls else ("", "")),
        )


def loop_table(report: Report, found: Counted, core: Core, top: int) -> None:
    """The sequence of each kernel in which most instructions run."""
    kernels = by_kernel(found)
    total = sum(trace.executed for trace in found.found)
    report.head("kernel", "%", "instr", "cycles", "FMA", *KINDS, "loop", "template")
    steps = steps_of(found)
    for name, traces in list(kernels.items())[: top or None]:
        if name == ELSEWHERE:
            continue
        hot = max(traces, key=lambda trace: trace.executed)
        spent = steady_cycles([hot.texts], core)[hot.texts][0]
        kinds = hot.kinds()
        report.row(
            name,
            number(100 * hot.executed / total, 1),
            len(hot.texts),
            number(spent, 1),
            number(100 * kinds["multiply-add"] / spent / core.multiply_adds, 0),
            *(kinds[kind] for kind in KINDS),
            "yes" if hot.is_loop else "no",
            shape_of(steps[name][0]).split(" | ")[0] if steps.get(name) else "",
        )


def peer_table(report: Report, traces: Sequence[Trace], core: Core, top: int) -> None:
    """The sequences of a peer in which most instructions run."""
    total = sum(trace.executed for trace in traces)
    report.add(f"{total / 1e6:.1f} M instructions, {modelled(traces, core).cycles / 1e6:.1f} M cycles.", "")
    report.head("at", "%", "instr", "cycles", "FMA", *KINDS, "loop")
    for hot in sorted(traces, key=lambda trace: -trace.executed)[: top or 12]:
        spent = steady_cycles([hot.texts], core)[hot.texts][0]
        kinds = hot.kinds()
        report.row(
            f"{Path(hot.path).name} {hot.offset:#x}",
            number(100 * hot.executed / total, 1),
            len(hot.texts),
            number(spent, 1),
            number(100 * kinds["multiply-add"] / spent / core.multiply_adds, 0),
            *(kinds[kind] for kind in KINDS),
            "yes" if hot.is_loop else "no",
        )


def show(found: Counted, kernel: str, core: Core) -> None:
    """Print the sequence of a kernel in which most instructions run."""
    traces = by_kernel(found)[kernel]
    executed = sum(trace.executed for trace in traces)
    for hot in sorted(traces, key=lambda trace: -trace.executed)[:3]:
        spent = steady_cycles([hot.texts], core)[hot.texts][0]
        print(
            f"\n{kernel}: {100 * hot.executed / executed:.1f}% of it, {len(hot.texts)} instructions in {spent} cycles"
        )
        print("\n".join("    " + text for text in hot.texts))


def main() -> None:
    """Count and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--target", default="arm:neoverse-n1")
    parser.add_argument("--cpu", default="neoverse-n1", choices=CPUS, help="what runs it under qemu")
    parser.add_argument("--core", default="neoverse-n1", choices=CORES, help="LLVM's model of cycles")
    parser.add_argument("--precision")
    parser.add_argument("--top", type=int, default=0, help="so many kernels; all by default")
    parser.add_argument("--loops", action="store_true")
    parser.add_argument("--show", metavar="KERNEL")
    parser.add_argument("--quantized", action="store_true", help="as ONNX Runtime's quantizer makes it")
    parser.add_argument("--peer", choices=("mnn", "onnxruntime"))
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    core = CORES[args.core]
    report = Report(
        f"{args.peer or 'Kernels'} on {args.target}",
        f"One inference on one thread under qemu-aarch64 -cpu {args.cpu}, {args.precision or 'float32'}; cycles are what "
        f"llvm-mca gives for {core.name}, without caches. FMA is in percent of {core.multiply_adds} a cycle.",
    )
    for name in args.models:
        report.add(f"## {name}", "")
        if args.peer:
            precision = "low" if args.precision == "fp16" else "high"
            peer = count_peer(args.peer, subject(name, args.quantized), args.cpu, precision)
            peer_table(report, peer.found, core, args.top)
        else:
            source, feed = source_and_feed(name, args.quantized)
            found = count(compile_for(source, feed, args.target, args.precision), feed, args.cpu)
            (loop_table if args.loops else kernel_table)(report, found, core, args.top)
            if args.show:
                show(found, args.show, core)
        report.add("")
    report.write(args.write)


if __name__ == "__main__":
    main()

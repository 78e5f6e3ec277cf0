"""What graphopt compiles for ARM, run under emulation and counted."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from arm_code import Disassembler, Symbols, Trace, traces
from arm_emulation import COUNTER, Counts, kept, write_outputs
from arm_sysroot import CPUS

import graphopt
from tests.support import qemu

Feed = Mapping[str, np.ndarray[Any, Any]]
TIMEOUT_S = 3600
LIBRARY = "library.so"
"""What the compiled library is called in blocks and traces, wherever it lay."""


@dataclass(frozen=True)
class Counted:
    """One inference of a compiled model.

    Attributes:
        model: the compiled model.
        found: what ran.
        symbols: functions of its library.
        outputs: results by name.
    """

    model: graphopt.CompiledModel
    found: list[Trace]
    symbols: Symbols
    outputs: dict[str, np.ndarray[Any, Any]]

    def kernel(self, trace: Trace) -> str:
        """The kernel that a trace belongs to; empty for the runtime's and the C library's code."""
        if trace.path != LIBRARY:
            return ""
        name = self.symbols.name(trace.offset).removeprefix("__tvm_ffi_")
        return name.partition("_compute_")[0]


def compile_for(source: Path, feed: Feed, target: str, precision: str | None) -> graphopt.CompiledModel:
    """The model for one thread, at the shapes of the feed."""
    shapes = {name: array.shape for name, array in feed.items()}
    graph = graphopt.import_onnx(source, shapes=shapes)
    return graphopt.compile(graph, target, threads=1, precision=precision)


def count(model: graphopt.CompiledModel, feed: Feed, cpu: str) -> Counted:
    """Run it twice under qemu and count what the second time takes; kept for as long as the code stays the same.

    Args:
        cpu: one of `CPUS`.
    """
    assert model.built is not None
    library = model.built.library_bytes()
    outputs = [(tuple(int(d) for d in spec.shape), spec.dtype.numpy) for spec in model.outputs]  # type: ignore[arg-type]
    inputs = [feed[spec.name] for spec in model.inputs]

    def run(plugin: str, result: Path) -> None:
        found = qemu.run_under_qemu(
            library,
            inputs,
            outputs,
            cpu=CPUS[cpu].emulated,
            constants=model.constants,
            timeout=TIMEOUT_S,
            plugin=plugin,
        )
        write_outputs(result, {spec.name: array for spec, array in zip(model.outputs, found, strict=True)})

    # Constants aren't part of the library: they decide results, and in places how long loops are.
    parts = [library, COUNTER.read_bytes(), CPUS[cpu].emulated.encode()]
    parts += [np.ascontiguousarray(array).tobytes() for array in (*inputs, *model.constants)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    inference = kept(f"ours/{digest.hexdigest()[:16]}", run)
    named: Counts = Counter()
    for block, times in inference.counts.items():
        inside = Path(block.path).name == LIBRARY
        named[replace(block, path=LIBRARY) if inside else block] += times
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / LIBRARY
        file.write_bytes(library)
        symbols = Symbols.of(file)
    return Counted(model, traces(named, Disassembler()), symbols, inference.outputs)

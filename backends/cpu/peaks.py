"""The peak kernels of `graphopt.backends.cpu.kernels.peak`, compiled and ready to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.backends.base.peaks import PeakKernels, StreamCase, Work
from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.build.code_generation import CodeGenerator
from graphopt.backends.build.tvm_threads import set_threads
from graphopt.backends.cpu.kernels.peak import STEP, emit_fma, emit_stream, fma_chains, fma_flops, stream_bytes
from graphopt.backends.specs.types import SINGLE

_FMA_STEPS = 100_000


class CpuPeaks(PeakKernels):
    """Kernels in vectors as wide as the target's.

    Args:
        generator: knows what code this machine runs.
    """

    def __init__(self, generator: CodeGenerator) -> None:
        self._generator = generator

    def fma_work(self, target: Target, threads: Sequence[int]) -> list[Work]:
        """Multiply-adds in registers on each number of threads.

        Raises:
            DeviceError: the target's code doesn't run on this machine.
        """
        caps = target.caps
        built = self._compiled(
            target, {f"fma_{n}": emit_fma(caps, _FMA_STEPS, n).with_attr("global_symbol", f"fma_{n}") for n in threads}
        )
        lanes = SINGLE.lanes(caps)
        seed = tvm.runtime.tensor(np.array([[0.5] * lanes, [0.25] * lanes], np.float32))
        found = []
        for n in threads:
            out = tvm.runtime.empty((n, fma_chains(caps), lanes), SINGLE.sum)
            found.append(Work(_call(built[f"fma_{n}"], seed, out), fma_flops(caps, _FMA_STEPS, n)))
        return found

    def stream_work(self, target: Target, cases: Sequence[StreamCase]) -> list[Work]:
        """Streams on the target's cores, cases of one size on the same memory, which lives as long as they do.

        Raises:
            DeviceError: the target's code doesn't run on this machine.
        """
        caps, threads = target.caps, target.caps.cores
        unit = STEP * SINGLE.lanes(caps) * threads
        counts = [max(case.size // 4 // unit, 1) * unit for case in cases]
        functions = {
            f"stream_{i}": emit_stream(case.kind, caps, count, threads, case.passes).with_attr(
                "global_symbol", f"stream_{i}"
            )
            for i, (case, count) in enumerate(zip(cases, counts))
        }
        built = self._compiled(target, functions)
        memory = {count: tvm.runtime.empty((count,), SINGLE.sum) for count in set(counts)}
        factors = tvm.runtime.tensor(np.full((threads, 4, SINGLE.lanes(caps)), 0.5, np.float32))
        return [
            Work(_call(built[f"stream_{i}"], memory[count], factors), case.passes * stream_bytes(case.kind, count))
            for i, (case, count) in enumerate(zip(cases, counts))
        ]

    def _compiled(self, target: Target, functions: dict[str, object]) -> dict[str, Callable[..., None]]:
        self._generator.require_runnable(target)
        set_threads(target.caps.cores)
        with cpu_pass_context():
            module = tvm.compile(tvm.IRModule(functions), target.tvm_target()).jit()
        return {name: module[name] for name in functions}


def _call(function: Callable[..., None], *arguments: object) -> Callable[[], None]:
    return lambda: function(*arguments)

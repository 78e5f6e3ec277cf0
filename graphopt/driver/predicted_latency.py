"""Predicted latency: the kernels of the lowered program by the cost models of their templates, nothing built or run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.cpu.cost.constants import (
    CLOCK,
    FMA_FLOPS_PER_LANE,
    L2_BYTES_PER_CYCLE,
    LAST_LEVEL_BYTES_PER_CYCLE,
    MEMORY_BYTES_PER_CYCLE,
    fork_cycles,
)
from graphopt.backends.program.program import BranchStep, Buffer, KernelStep, Program

CALL_SECONDS = 1.5e-6
"""What the virtual machine takes for a kernel call besides the kernel: 1.3 to 2.5 us measured on two models."""

_GPU_BYTES_PER_SECOND = 15e9
"""Memory bandwidth of one multiprocessor's share (A100: 18e9, T4: 8e9)."""
_GPU_FLOPS_PER_SECOND = 180e9
"""Of one multiprocessor: 128 multiply-adds a cycle at the clock of a busy one, none of them in tensor cores."""
_GPU_LAUNCH_SECONDS = 3e-6


@dataclass(frozen=True)
class KernelSeconds:
    """One kernel call.

    Attributes:
        label: as in the program.
        template: how it is computed.
        origins: names of the ONNX nodes that it stands for.
        seconds: predicted, at the nominal clock of the cost models.
    """

    label: str
    template: str
    origins: tuple[str, ...]
    seconds: float


def predicted_kernels(program: Program) -> list[KernelSeconds]:
    """Kernels in order with predicted times; of an If, those of the slower branch.

    A template's own prediction counts, but never less than its bytes take; the generic schedule is bound by bytes and the rate
    of the vector units. Kernels of symbolic sizes without a prediction count nothing.
    """
    caps = program.target.caps
    weights = weight_bytes(program)
    found = []
    for step in program.steps:
        if isinstance(step, KernelStep):
            found.append(KernelSeconds(step.label, step.template, step.origins, kernel_seconds(step, caps, weights)))
        elif isinstance(step, BranchStep):
            both = [predicted_kernels(sub.program) for sub in (step.then, step.otherwise)]
            found += max(both, key=lambda kernels: sum(k.seconds for k in kernels))
    return found


def predicted_seconds(program: Program) -> float:
    """Predicted time of one run, at the nominal clock of the cost models: what ratios between programs are made of."""
    kernels = predicted_kernels(program)
    return sum(kernel.seconds for kernel in kernels) + CALL_SECONDS * len(kernels)


def weight_bytes(program: Program) -> int:
    """Of all constants as they are packed: what of them stays in a cache until the next run."""
    return sum(b.static_bytes or 0 for b in program.constants)


def kernel_seconds(step: KernelStep, caps: Caps, all_weights: int) -> float:
    """Predicted time of one call in a program with so many bytes of weights."""
    weights, moved = _bytes(b for b in step.inputs if b.data is not None), _moving(step)
    if step.bytes is not None:  # of a table only some rows are read
        weights = min(weights, max(step.bytes - moved, 0))
    floor = moved_seconds(weights, moved, caps, all_weights)
    if step.seconds is not None:
        return max(step.seconds, floor)
    return max(floor, arithmetic_seconds(step.flops or 0, caps)) + (0 if caps.is_gpu else fork_cycles(caps) / CLOCK)


def moved_seconds(weights: int, activations: int, caps: Caps, all_weights: int) -> float:
    """Time to read so many bytes of weights, and to read or write so many of values in caches.

    Weights come from memory, or from the last cache where all those of the model fit in half of it.
    """
    if caps.is_gpu:
        return (weights + activations) / (_GPU_BYTES_PER_SECOND * caps.cores) + _GPU_LAUNCH_SECONDS
    rate = L2_BYTES_PER_CYCLE if activations < caps.l2_bytes * caps.cores / 2 else LAST_LEVEL_BYTES_PER_CYCLE
    source = LAST_LEVEL_BYTES_PER_CYCLE if all_weights < caps.l3_bytes / 2 else MEMORY_BYTES_PER_CYCLE
    return (weights / source + activations / rate) / (max(caps.cores, 1) * CLOCK)


def arithmetic_seconds(flops: int, caps: Caps) -> float:
    """Time of so many operations of the generic schedule, which multiplies and adds in one instruction at best."""
    rate = _GPU_FLOPS_PER_SECOND if caps.is_gpu else FMA_FLOPS_PER_LANE / 2 * caps.lanes(4) * CLOCK
    return flops / (rate * max(caps.cores, 1))


def _moving(step: KernelStep) -> int:
    return _bytes((*(b for b in step.inputs if b.data is None), *step.outputs))


def _bytes(buffers: Iterable[Buffer]) -> int:
    return sum(b.static_bytes or 0 for b in dict.fromkeys(buffers))

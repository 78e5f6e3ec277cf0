"""Predicted latency: the kernels of a lowered program by cost models, nothing built or run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.cost import CostModel
from graphopt.backends.program.program import BranchStep, Buffer, KernelStep, Program


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


def predicted_kernels(program: Program, costs: CostModel) -> list[KernelSeconds]:
    """Kernels in order with predicted times; of an If, those of the slower branch.

    A template's own prediction counts, but never less than its bytes take; the generic schedule is bound by bytes and the rate
    of the vector units. Kernels of symbolic sizes without a prediction count nothing.
    """
    weights = weight_bytes(program)
    found = []
    for step in program.steps:
        if isinstance(step, KernelStep):
            seconds = _kernel_seconds(step, costs, program.target.caps, weights)
            found.append(KernelSeconds(step.label, step.template, step.origins, seconds))
        elif isinstance(step, BranchStep):
            both = [predicted_kernels(sub.program, costs) for sub in (step.then, step.otherwise)]
            found += max(both, key=lambda kernels: sum(k.seconds for k in kernels))
    return found


def weight_bytes(program: Program) -> int:
    """Of all constants as they are packed: what of them stays in a cache until the next run."""
    return sum(b.static_bytes or 0 for b in program.constants)


def _kernel_seconds(step: KernelStep, costs: CostModel, caps: Caps, all_weights: int) -> float:
    weights, moved = _bytes(b for b in step.inputs if b.data is not None), _moving(step)
    if step.bytes is not None:  # of a table only some rows are read
        weights = min(weights, max(step.bytes - moved, 0))
    floor = costs.moved_seconds(weights, moved, caps, all_weights)
    if step.seconds is not None:
        return max(step.seconds, floor)
    return max(floor, costs.arithmetic_seconds(step.flops or 0, caps)) + costs.start_seconds(caps)


def _moving(step: KernelStep) -> int:
    return _bytes((*(b for b in step.inputs if b.data is None), *step.outputs))


def _bytes(buffers: Iterable[Buffer]) -> int:
    return sum(b.static_bytes or 0 for b in dict.fromkeys(buffers))

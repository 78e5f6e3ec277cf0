"""The buffer plan against the rule it follows, written out plainly."""

from __future__ import annotations

import random

import pytest

from graphopt.backends.program.plan import ALIGNMENT, COPIED_BYTES, plan_buffers
from graphopt.backends.program.program import Buffer, KernelStep, Program
from graphopt.backends.targets.grammar import parse_target
from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType


def program_of(rng: random.Random, count: int, reach: int) -> Program:
    """Steps that each read some of the results of up to ``reach`` steps before."""
    steps: list[KernelStep] = []
    for i in range(count):
        shape = (rng.choice([1, 7, 16, 64, rng.randrange(1, 4000)]),)
        made = Buffer(f"b{i}", TensorType(DType.f32, shape), shape)
        earlier = [s.outputs[0] for s in steps[-reach:]]
        read = rng.sample(earlier, min(len(earlier), rng.randrange(1, 4)))
        steps.append(KernelStep("kernel", read, [made], [], "kernel"))
    results = [s.outputs[0] for s in rng.sample(steps, min(2, count))]
    return Program("main", parse_target("x86-64-v3", 1), [], results, list(steps))


def places(program: Program, copied: int) -> dict[Buffer, int]:
    """Greedy by size: the largest first, each into the narrowest gap among those that live at the same time.

    Args:
        program: its results live to the end.
        copied: results of more bytes have no place.
    """
    life: dict[Buffer, tuple[int, int]] = {}
    for i, step in enumerate(program.kernels):
        for b in (*step.outputs, *step.inputs):
            life[b] = life.get(b, (i, i))[0], i
    life |= {b: (life[b][0], len(program.steps)) for b in program.outputs}
    found: dict[Buffer, int] = {}
    bytes_of = {b: -(-(b.static_bytes or 0) // ALIGNMENT) * ALIGNMENT for b in life}
    planned = [b for b in life if b not in program.outputs or (b.static_bytes or 0) <= copied]
    for b in sorted(planned, key=lambda b: (-bytes_of[b], life[b][0])):
        beside = [o for o in found if life[o][0] <= life[b][1] and life[b][0] <= life[o][1]]
        end, gaps = 0, []
        for other in sorted(beside, key=lambda o: found[o]):
            gaps.append((found[other] - end, end))
            end = max(end, found[other] + bytes_of[other])
        fitting = [gap for gap in gaps if gap[0] >= bytes_of[b]]
        found[b] = min(fitting, key=lambda gap: gap[0])[1] if fitting else end
    return found


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("reach", [2, 10, 200])
def test_buffers_are_placed_greedily_by_size(reach: int, called: bool) -> None:
    rng = random.Random(reach)
    for _ in range(8):
        program = program_of(rng, rng.randrange(2, 90), reach)
        plan_buffers(program, [] if called else None)
        expected = places(program, -1 if called else COPIED_BYTES)
        found = [s.outputs[0] for s in program.kernels]
        assert {b: b.offset for b in found if b.offset is not None} == expected

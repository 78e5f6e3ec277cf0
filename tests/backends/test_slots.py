"""Buffers that share a slot never live together, whatever the extents, and a slot is as large as each of them."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.backends.program.plan import plan_buffers
from graphopt.backends.program.program import Buffer, KernelStep, Lodging, Program, Sizing, Step, ViewStep
from graphopt.backends.program.slots import MOST_SIZES, plan_slots, size_of
from graphopt.backends.targets.grammar import parse_target
from graphopt.ir.dims import Dim, SymExpr, symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType

N, M, UNKNOWN = symbol("n"), symbol("m"), symbol("u")


def buffer(name: str, *shape: Dim) -> Buffer:
    return Buffer(name, TensorType(DType.f32, shape), shape)


def program_of(steps: list[Step], inputs: list[Buffer], outputs: list[Buffer]) -> Program:
    program = Program("p", parse_target("x86-64-v3"), inputs, outputs, steps)
    program.sizing = Sizing({"n": (0, 0), "m": (0, 1)})
    plan_buffers(program)
    return program


@st.composite
def programs(draw: st.DrawFn) -> Program:
    made = [buffer("input", N, M)]
    steps: list[Step] = []
    for i in range(draw(st.integers(1, 20))):
        source = draw(st.sampled_from(made))
        if draw(st.integers(0, 3)) == 0:
            out = Buffer(f"b{i}", source.type, source.shape)
            steps.append(ViewStep(source, out))
        else:
            out = buffer(f"b{i}", draw(st.sampled_from([N, M, N * M, 2 * N, N + 3, UNKNOWN, 4])), 8)
            scratch = [buffer(f"s{i}", draw(st.sampled_from([N, 16])))] if draw(st.booleans()) else []
            steps.append(KernelStep("f", [source, draw(st.sampled_from(made))], [out], [], "f", scratch=scratch))
        made.append(out)
    outputs = draw(st.lists(st.sampled_from(made[1:]), min_size=1, max_size=2, unique_by=id))
    return program_of(steps, made[:1], outputs)


@given(programs())
@settings(max_examples=300, deadline=None)
def test_buffers_in_a_slot_never_live_together(program: Program) -> None:
    """Write every buffer's name into a model of the slots, and find it there at every read."""
    slots = plan_slots(program, {})
    holds: dict[int, Buffer] = {}
    origin: dict[Buffer, Buffer] = {}
    for step in program.steps:
        if isinstance(step, ViewStep):
            origin[step.output] = origin.get(step.input, step.input)
    results = {origin.get(b, b) for b in program.outputs}
    for step in program.steps:
        assert isinstance(step, (KernelStep, ViewStep))
        reads = step.inputs if isinstance(step, KernelStep) else [step.input]
        for b in reads:
            home = origin.get(b, b)
            if home.slot is not None:
                assert holds[home.slot] is home, f"{b.name} was overwritten before its last use"
        if isinstance(step, ViewStep):
            assert step.output.slot == origin[step.output].slot
            continue
        taken = {origin.get(b, b).slot for b in reads} - {None}
        for b in (*step.outputs, *step.scratch):
            symbols = {s for d in b.shape if isinstance(d, SymExpr) for s in d.symbols()}
            if b in results:
                assert b.slot is None, "results leave the program"
            else:
                assert (b.slot is not None) == (bool(symbols) and symbols <= {"n", "m"})
            if b.slot is not None:
                assert b.slot not in taken, "a kernel never writes where it reads or writes"
                assert size_of(b) in slots[b.slot].sizes
                taken.add(b.slot)
                holds[b.slot] = b


CELLS = 64
"""Of a slot in the model of memory: wholes within wholes get half as many with each level."""


@st.composite
def programs_with_wholes(draw: st.DrawFn) -> tuple[Program, dict[Buffer, tuple[Buffer, Buffer]]]:
    """Kernels, views and joins of two halves, and which those are: the halves lie in the whole where ``f`` is 1."""
    made = [buffer("input", N, M)]
    wholes: dict[Buffer, tuple[Buffer, Buffer]] = {}
    depth: dict[Buffer, int] = {}
    steps: list[Step] = []
    for i in range(draw(st.integers(3, 20))):
        free = [b for b in made[1:] if b.home is None and b.lodging is None and depth[b] < 5]
        kind = draw(st.integers(0, 3))
        out = buffer(f"b{i}", draw(st.sampled_from([N, M, N * M, 2 * N])), 8)
        if kind == 0 and len(free) > 1:
            first, second = draw(st.lists(st.sampled_from(free), min_size=2, max_size=2, unique_by=id))
            first.lodging, second.lodging = Lodging(out, 0, "f"), Lodging(out, 16 * N, "f")
            wholes[out] = first, second
            depth[out] = 1 + max(depth[first], depth[second])
            steps.append(KernelStep("concat", [first, second], [out], ["f"], "f"))
        elif kind == 1:
            source = draw(st.sampled_from(made[1:] or made))
            out = Buffer(f"b{i}", source.type, source.shape)
            steps.append(ViewStep(source, out))
            depth[out] = 5
        else:
            steps.append(KernelStep("f", draw(st.lists(st.sampled_from(made), min_size=1, max_size=2)), [out], [], "f"))
            depth[out] = 0
        made.append(out)
    # a whole must be the last that its halves are moved into, and what is returned has memory of its own
    end = buffer("end", N)
    steps.append(KernelStep("f", made[-1:], [end], [], "f"))
    program = program_of(steps, made[:1], [end])
    assert program.sizing is not None
    program.sizing.computed.append("f")
    return program, wholes


@given(programs_with_wholes())
@settings(max_examples=300, deadline=None)
def test_parts_are_never_overwritten_wherever_they_lie(
    drawn: tuple[Program, dict[Buffer, tuple[Buffer, Buffer]]],
) -> None:
    """Run a model of memory for both values of the flag: what is read is what was written."""
    program, wholes = drawn
    plan_slots(program, {})
    for inside in (False, True):
        memory: dict[int | None, list[Buffer | None]] = {}

        def place(b: Buffer, inside: bool = inside) -> tuple[int | None, int, int]:
            root = b.root[0]
            if root.lodging is None or not inside:
                return root.slot, 0, CELLS
            slot, first, end = place(root.lodging.home)
            middle = (first + end) // 2
            return (slot, first, middle) if wholes[root.lodging.home][0] is root else (slot, middle, end)

        def holds(
            b: Buffer, slot: int | None, first: int, end: int, inside: bool = inside, memory: Any = memory
        ) -> bool:
            """Whether cells hold a buffer, or what its halves have written there."""
            root = b.root[0]
            if inside and root in wholes:
                middle = (first + end) // 2
                left, right = wholes[root]
                return holds(left, slot, first, middle) and holds(right, slot, middle, end)
            return bool(memory[slot][first:end] == [root] * (end - first))

        for step in program.steps:
            assert isinstance(step, (KernelStep, ViewStep))
            for b in step.inputs if isinstance(step, KernelStep) else [step.input]:
                if b.root[0] is not program.inputs[0]:
                    assert holds(b, *place(b)), f"{b.name} was overwritten before its last use"
            if isinstance(step, KernelStep) and not (inside and step.outputs[0] in wholes):
                for b in step.outputs:
                    slot, first, end = place(b)
                    cells = memory.setdefault(slot, [None] * CELLS)
                    cells[first:end] = [b] * (end - first)


def test_memory_is_reused() -> None:
    chain = [buffer(f"b{i}", N, 10) for i in range(8)]
    steps: list[Step] = [KernelStep("f", [a], [b], [], "f") for a, b in itertools.pairwise(chain)]
    slots = plan_slots(program_of(steps, chain[:1], chain[-1:]), {})
    assert [len(slot.lives) for slot in slots] == [3, 3]


def test_large_buffers_share_with_the_smallest_that_is_large_enough() -> None:
    """Of the two slots that are free for ``c``, the one of ``b`` is its size."""
    a, b, c, d, end = (buffer(n, s) for n, s in zip("abcde", (N * M, N, N, N, N)))
    start = buffer("start", N, M)
    steps: list[Step] = [
        KernelStep("f", [start], [a, b], [], "f"),
        KernelStep("f", [start], [c], [], "f"),
        KernelStep("f", [c], [d], [], "f"),
        KernelStep("f", [d], [end], [], "f"),
    ]
    plan_slots(program_of(steps, [start], [end]), {})
    assert c.slot == b.slot
    assert d.slot == a.slot


def test_a_slot_takes_so_many_sizes() -> None:
    """Its own is computed by one kernel."""
    chain = [buffer(f"b{i}", N + i) for i in range(3 * MOST_SIZES)]
    steps: list[Step] = [KernelStep("f", [a], [b], [], "f") for a, b in itertools.pairwise(chain)]
    slots = plan_slots(program_of(steps, chain[:1], chain[-1:]), {})
    assert len(slots) == 4
    assert max(len(slot.sizes) for slot in slots) == MOST_SIZES

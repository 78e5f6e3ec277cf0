"""The buffer plan: no two live buffers share a slot, whatever the program."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.backends.program.plan import COPIED_BYTES, plan_buffers
from graphopt.backends.program.program import Buffer, KernelStep, Program, Step, ViewStep
from graphopt.backends.targets.grammar import parse_target
from graphopt.ir.dims import symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType


def buffer(name: str, size: int) -> Buffer:
    return Buffer(name, TensorType(DType.f32, (size,)), (size,))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    made = [buffer("input", 8)]
    steps: list[Step] = []
    for i in range(draw(st.integers(1, 20))):
        source = draw(st.sampled_from(made))
        size = draw(st.sampled_from([0, 1, 8, 100, 1000, 3000]))
        if draw(st.booleans()):
            out = Buffer(f"b{i}", source.type, source.shape)
            steps.append(ViewStep(source, out))
        else:
            out = buffer(f"b{i}", size)
            other = draw(st.sampled_from(made))
            steps.append(KernelStep("f", [source, other], [out], [], "f"))
        made.append(out)
    outputs = draw(st.lists(st.sampled_from(made[1:]), min_size=1, max_size=2, unique_by=id))
    return Program("p", parse_target("x86-64-v3"), made[:1], outputs, steps)


@given(programs(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_live_buffers_never_overlap(program: Program, called: bool) -> None:
    """Write every buffer's name into a model of the arena, and find it there at every read, and results at the end."""
    plan_buffers(program, [] if called else None)
    arena: dict[int, Buffer] = {}
    origin: dict[Buffer, Buffer] = {}
    for step in program.steps:
        reads = step.inputs if isinstance(step, KernelStep) else [step.input]  # type: ignore[union-attr]
        for b in reads:
            home = origin.get(b, b)
            if home.offset is not None:
                assert all(arena[i] is home for i in _bytes_of(home)), f"{b.name} was overwritten before its last use"
        if isinstance(step, ViewStep):
            origin[step.output] = origin.get(step.input, step.input)
            assert step.output.offset == origin[step.output].offset
        elif isinstance(step, KernelStep):
            for b in step.outputs:
                if b.offset is not None:
                    assert b.offset % 64 == 0
                    assert b.offset + (b.static_bytes or 0) <= program.arena_bytes
                    assert not set(_bytes_of(b)) & {
                        i for r in step.inputs if r.offset is not None for i in _bytes_of(origin.get(r, r))
                    }, "a kernel never writes where it reads"
                    arena.update(dict.fromkeys(_bytes_of(b), b))
    for b in program.outputs:
        home = origin.get(b, b)
        small = (
            home in (made for step in program.kernels for made in step.outputs) and home.static_bytes <= COPIED_BYTES
        )
        assert (home.offset is not None) == (small and not called)
        assert home.offset is None or all(arena[i] is home for i in _bytes_of(home)), f"{b.name} was overwritten"


def _bytes_of(b: Buffer) -> range:
    assert b.offset is not None
    return range(b.offset, b.offset + (b.static_bytes or 0))


def test_memory_is_reused() -> None:
    chain = [buffer(f"b{i}", 1000) for i in range(6)]
    steps: list[Step] = [KernelStep("f", [a], [b], [], "f") for a, b in itertools.pairwise(chain)]
    program = Program("p", parse_target("x86-64-v3"), chain[:1], chain[-1:], steps)
    plan_buffers(program, copied=[])
    assert program.arena_bytes == 2 * 4032


def test_small_buffers_fill_the_gap_that_a_dead_large_one_leaves() -> None:
    a, big, b, c, d, end = (buffer(n, s) for n, s in zip("aBbcde", (16, 1600, 160, 160, 160, 16)))
    steps: list[Step] = [
        KernelStep("f", [a], [big], [], "f"),
        KernelStep("f", [big], [b], [], "f"),
        KernelStep("f", [b], [c], [], "f"),
        KernelStep("f", [b, c], [d], [], "f"),
        KernelStep("f", [d], [end], [], "f"),
    ]
    program = Program("p", parse_target("x86-64-v3"), [a], [end], steps)
    plan_buffers(program, copied=[])
    assert program.arena_bytes == 6400 + 640


def test_symbolic_sizes_are_left_to_the_runtime() -> None:
    n = symbol("n")
    a, b = (Buffer(name, TensorType(DType.f32, (n,)), (n,)) for name in "ab")
    c = Buffer("c", TensorType(DType.f32, (n,)), (n,))
    steps: list[Step] = [KernelStep("f", [a], [b], [], "f"), KernelStep("f", [b], [c], [], "f")]
    program = Program("p", parse_target("x86-64-v3"), [a], [c], steps)
    plan_buffers(program)
    assert b.offset is None
    assert program.arena_bytes == 0

"""From a program to what a C library runs (`build/c_library`): kernels in order, each with the places of its tensors."""

from __future__ import annotations

from graphopt.backends.build.c_library import CONSTANT, INPUT, MEMORY, OUTPUT, CModel, Place
from graphopt.backends.program.plan import aligned
from graphopt.backends.program.program import BindStep, BranchStep, Buffer, KernelStep, Program, Step
from graphopt.errors import InternalError, UserError


def c_model(program: Program, name: str) -> CModel:
    """The calls of a program.

    Args:
        program: its sizes are known, and it takes no decision while it runs.
        name: a C identifier.

    Raises:
        UserError: it isn't so; the hint says what to do.
    """
    _require_plain(program)
    places: dict[Buffer, Place] = {}
    for i, b in enumerate(program.inputs):
        places[b] = Place(INPUT, i)
    for i, b in enumerate(program.constants):
        places[b] = Place(CONSTANT, i)
    copies = []
    for i, b in enumerate(program.outputs):
        root, shift = b.root
        if root not in places and not root.is_planned and shift == 0 and root.static_bytes == b.static_bytes:
            places[root] = Place(OUTPUT, i)  # kernels write it where the caller wants it
        else:
            copies.append((b, i))
    memory = program.arena_bytes

    def place(b: Buffer) -> Place:
        nonlocal memory
        if b.offset is not None:
            return Place(MEMORY, 0, b.offset)
        root, shift = b.root
        if root not in places:  # what a result is a part of; the virtual machine allocates it in each run
            if root.static_bytes is None:
                raise InternalError(f"buffer {b.name} has no place")
            places[root] = Place(MEMORY, 0, memory)
            memory += aligned(root.static_bytes)
        found = places[root]
        return Place(found.kind, found.index, found.offset + shift)

    calls = [(s.function, [place(b) for b in (*s.inputs, *s.outputs, *s.scratch)]) for s in program.kernels]
    copied = [(place(b), i, b.static_bytes or 0) for b, i in copies]
    constants = [b.data for b in program.constants if b.data is not None]
    return CModel(name, memory, calls, copied, constants)


def _require_plain(program: Program) -> None:
    open_inputs = [b.name for b in program.inputs if b.static_bytes is None]
    if open_inputs:
        raise UserError(
            f"a C library has known sizes only; those of {', '.join(open_inputs)} are open", code="open-sizes",
            hint="fix them with --shape NAME=1x3x224x224 (shapes= in Python), or write a .gopt file",
        )  # fmt: skip
    decides = [what for step in program.steps if (what := _decision(step))]
    if any(b.static_bytes is None for b in program.outputs):
        decides.append("the size of a result")
    if decides:
        raise UserError(
            f"values decide {decides[0]} while the model runs, which a C library can't follow", code="decides-while-running",
            hint="fix an input that decides it with --value, or write a .gopt file",
        )  # fmt: skip


def _decision(step: Step) -> str:
    if isinstance(step, BranchStep):
        return "which branch is taken"
    return "a size" if isinstance(step, BindStep) or (isinstance(step, KernelStep) and step.symbols) else ""

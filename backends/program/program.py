"""Third level: an ordered list of kernel calls on planned buffers, packed constants, an entry signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Array, Value
from graphopt.ir.kernel_plan import KernelChoice
from graphopt.ir.types import Shape, TensorType


@dataclass(eq=False)
class Buffer:
    """A tensor in memory: a graph input, a constant, or the result of a step.

    Attributes:
        shape: physical shape (blocked layouts spelt out), dimensions possibly symbolic.
        home: the buffer that it is a part of, ``shift`` bytes from its start; None if it has memory of its own.
        offset: where it starts in the program's arena, in bytes; None for inputs, constants, what leaves the program (if it
            is large), and sizes that only run time knows. See `graphopt.backends.program.plan`.
        slot: the memory that it is placed in by itself, if its size follows from the extents of the program's inputs; None if
            not, and for what leaves the program. See `graphopt.backends.program.slots`.
        lodging: another buffer that it may be a part of, which extents decide; only of a buffer that has no ``home``.
        on_host: it is in the memory of the host, whatever the device: dimensions that the host computes.
    """

    name: str
    type: TensorType
    shape: Shape
    data: Array | None = None
    value: Value | None = None
    home: Buffer | None = None
    shift: int = 0
    offset: int | None = None
    slot: int | None = None
    lodging: Lodging | None = None
    on_host: bool = False

    @property
    def root(self) -> tuple[Buffer, int]:
        """The buffer whose memory this one lies in, itself if nobody else's, and how many bytes from its start."""
        at, shift = self, 0
        while at.home is not None:
            at, shift = at.home, shift + at.shift
        return at, shift

    @property
    def hosts(self) -> list[Buffer]:
        """The buffers whose memory this one may lie in, from its ``root`` on."""
        found = [self.root[0]]
        while (lodging := found[-1].lodging) is not None:
            found.append(lodging.home.root[0])
        return found

    @property
    def is_planned(self) -> bool:
        """Whether it has a place before the program runs, and a tensor for it is passed to the program."""
        return self.offset is not None or self.slot is not None

    @property
    def static_bytes(self) -> int | None:
        """Size in bytes, None if symbolic."""
        total = (self.type.dtype.bits + 7) // 8
        for d in self.shape:
            if not isinstance(d, int):
                return None
            total *= d
        return total


@dataclass(frozen=True, eq=False)
class Lodging:
    """A place in a larger buffer, for extents at which it is one contiguous range of that.

    Attributes:
        home: the larger buffer.
        shift: bytes from its start.
        flag: a symbol that is 1 where the buffer lies there and 0 where it has memory of its own; None if it always lies there.
        when: what ``flag`` is the product of.
    """

    home: Buffer
    shift: Dim
    flag: str | None = None
    when: frozenset[Dim] = frozenset()


@dataclass(eq=False)
class KernelStep:
    """Call ``function(*inputs, *outputs, *scratch, *symbols)``.

    Attributes:
        flops: operations that the nodes ask for (`graphopt.ops.flops`), None when sizes are symbolic.
        bytes: operands and results once each (`graphopt.backends.program.work`), None when sizes are symbolic.
        candidates: what each template for the anchor predicted, cheapest first, or why it can't.
        seconds: what the template taken predicted, at the nominal clock of the cost models; None of the generic schedule.
        anchor: name of the node that decides the kernel.
        scratch: what it writes and nobody reads afterwards.
        choice: template and configuration as a plan holds them; None of kernels that leave no choice (copies, sizes).
    """

    function: str
    inputs: list[Buffer]
    outputs: list[Buffer]
    symbols: list[str]
    label: str
    template: str = "generic"
    config: str = ""
    origins: tuple[str, ...] = ()
    flops: int | None = None
    bytes: int | None = None
    candidates: tuple[str, ...] = ()
    seconds: float | None = None
    anchor: str = ""
    choice: KernelChoice | None = None
    scratch: list[Buffer] = field(default_factory=list)


@dataclass(eq=False)
class ViewStep:
    """``output`` is ``input`` under another shape, or a part of it that starts ``shift`` bytes in: no copy.

    Where the shift follows from extents, ``output`` has a `Lodging`, which holds it.
    """

    input: Buffer
    output: Buffer
    shift: int = 0


@dataclass(eq=False)
class JoinStep:
    """``output`` is complete: its parts were written into it, one after the other. No code."""

    parts: list[Buffer]
    output: Buffer


@dataclass(eq=False)
class BindStep:
    """Elements of an integer tensor become symbols: ``symbols[i] = input[i]``."""

    input: Buffer
    symbols: list[str]


@dataclass(eq=False)
class SubProgram:
    """A program that another one calls.

    Attributes:
        arguments: the caller's buffers for the program's inputs, then for its constants.
        symbols: dimensions of the caller that the program reads.
    """

    program: Program
    arguments: list[Buffer]
    symbols: list[str]


@dataclass(eq=False)
class BranchStep:
    """``outputs = then() if condition else otherwise()``; only the branch taken runs.

    Attributes:
        defines: symbols in the outputs' shapes that only the branch taken decides.
    """

    condition: Buffer
    then: SubProgram
    otherwise: SubProgram
    outputs: list[Buffer]
    defines: list[str] = field(default_factory=list)


Step = KernelStep | ViewStep | JoinStep | BindStep | BranchStep


@dataclass(eq=False)
class Sizing:
    """What is done once for inputs of new extents, before the first run on them, and holds for all further runs.

    Attributes:
        extents: symbols of the inputs' extents, with the input and the axis that each is read from.
        steps: kernels that check and compute dimensions, and at last the bytes of each slot and the places of lodgers.
        computed: symbols that the program may use afterwards.
        slots: symbols of the bytes of each slot: memory for the buffers whose `Buffer.slot` is its number.
        states: buffers that lie, one each, in further slots, whose memory stays from run to run.
        lodgers: buffers with a `Lodging`, each behind its home if that is one too.
        places: symbols of where each lodger begins in its home, in bytes; -1 where it has memory of its own.
    """

    extents: dict[str, tuple[int, int]]
    steps: list[Step] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    states: list[Buffer] = field(default_factory=list)
    lodgers: list[Buffer] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Program:
    """Everything that runs: steps in order, kernels by name, buffers.

    Attributes:
        functions: PrimFuncs, each structurally distinct (equal kernels are emitted once).
        arena_bytes: memory that all planned buffers share.
        sizing: of a program with symbolic inputs that no other one calls, on a host; None of others.
        model: digest of the graph that it was made of.
    """

    name: str
    target: Target
    inputs: list[Buffer]
    outputs: list[Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    constants: list[Buffer] = field(default_factory=list)
    functions: dict[str, Any] = field(default_factory=dict)
    arena_bytes: int = 0
    sizing: Sizing | None = None
    model: str = ""

    @property
    def kernels(self) -> list[KernelStep]:
        """Kernel calls in order."""
        return [s for s in self.steps if isinstance(s, KernelStep)]

    @property
    def waits(self) -> bool:
        """Whether the host reads values while it runs: which branch is taken, and sizes that kernels compute."""
        return any(isinstance(step, (BindStep, BranchStep)) for step in self.steps)

    def choices(self) -> dict[str, KernelChoice]:
        """How kernels are computed, those of branches too, by the name of their anchor."""
        found = {s.anchor: s.choice for s in self.kernels if s.choice is not None}
        for step in self.steps:
            if isinstance(step, BranchStep):
                for sub in (step.then, step.otherwise):
                    found |= sub.program.choices()
        return found


def format_program(
    program: Program, costs: bool = False, remarks_on: Callable[[str], Sequence[str]] = lambda function: ()
) -> str:
    """Text of the third level.

    Args:
        program: what to print.
        costs: with each kernel's operations and bytes, and what the templates that competed for it predicted.
        remarks_on: further lines about a function, with ``costs``.
    """
    lines = [f"program {program.name} for {program.target.name} {{"]
    lines += [f"  input %{b.name}: {_text(b)}" for b in program.inputs]
    total = sum(b.data.nbytes for b in program.constants if b.data is not None)
    lines.append(f"  constants: {len(program.constants)} ({total} bytes)")
    lines.append(f"  arena: {program.arena_bytes} bytes")
    if program.sizing is not None:
        lines += [f"  state %{b.name}: {_text(b)}{_place(b)}" for b in program.sizing.states]
        lines.append(f"  for each new {', '.join(program.sizing.extents)} {{")
        lines += ["  " + line for line in _steps(program.sizing.steps, costs, remarks_on)]
        lines.append("  }")
    lines += _steps(program.steps, costs, remarks_on)
    lines.append("  return " + ", ".join(f"%{b.name}" for b in program.outputs))
    lines.append("}")
    for step in program.steps:
        if isinstance(step, BranchStep):
            lines += [format_program(sub.program, costs, remarks_on) for sub in (step.then, step.otherwise)]
    return "\n".join(lines)


def _steps(steps: Sequence[Step], costs: bool, remarks_on: Callable[[str], Sequence[str]]) -> list[str]:
    lines: list[str] = []
    for step in steps:
        if isinstance(step, KernelStep):
            outs = ", ".join(f"%{b.name}: {_text(b)}{_place(b)}" for b in step.outputs)
            ins = ", ".join(f"%{b.name}" for b in step.inputs)
            extra = f" [{', '.join(step.symbols)}]" if step.symbols else ""
            extra += "".join(f" using {_text(b)}{_place(b)}" for b in step.scratch)
            how = f"{step.template}{' ' + step.config if step.config else ''}"
            lines.append(f"  {outs} = {step.function}({ins}){extra}  // {how}; {step.label}")
            if costs:
                lines += _costs(step, remarks_on(step.function))
        elif isinstance(step, ViewStep):
            place = f" + {step.shift}" if step.shift else ""
            lines.append(f"  %{step.output.name}: {_text(step.output)} = view(%{step.input.name}{place})")
        elif isinstance(step, JoinStep):
            parts = ", ".join(f"%{b.name}" for b in step.parts)
            lines.append(f"  %{step.output.name}: {_text(step.output)}{_place(step.output)} = join({parts})")
        elif isinstance(step, BindStep):
            lines.append(f"  {', '.join(step.symbols)} = elements(%{step.input.name})")
        else:
            outs = ", ".join(f"%{b.name}: {_text(b)}" for b in step.outputs)
            lines.append(f"  {outs} = if %{step.condition.name} {_call(step.then)} else {_call(step.otherwise)}")
    return lines


def _costs(step: KernelStep, remarks: Sequence[str]) -> list[str]:
    work = [] if step.flops is None else [f"{step.flops / 1e6:.2f} MFLOP"]
    work += [] if step.bytes is None else [f"{step.bytes / 1e6:.2f} MB"]
    lines = [f"      // {', '.join(work) or 'size known at run time'}"]
    known = (*(step.candidates or ("no template: generic schedule",)), *remarks)
    return lines + [f"      // {line}" for line in known]


def _call(sub: SubProgram) -> str:
    symbols = f" [{', '.join(sub.symbols)}]" if sub.symbols else ""
    return f"{sub.program.name}({', '.join(f'%{b.name}' for b in sub.arguments)}){symbols}"


def _text(b: Buffer) -> str:
    return str(TensorType(b.type.dtype, b.shape))


def _place(b: Buffer) -> str:
    if b.slot is not None:
        there = b.root[0].lodging
        if there is None:
            return f" in slot {b.slot}"
        place = f" in %{there.home.name} + {there.shift}"
        return place if there.flag is None else f"{place} if {there.flag} else slot {b.slot}"
    return "" if b.offset is None else f" @{b.offset}"

"""Third level: an ordered list of kernel calls on planned buffers, packed constants, an entry signature."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.ir.graph import Array, Value
from graphopt.ir.types import Shape, TensorType


@dataclass(eq=False)
class Buffer:
    """A tensor in memory: a graph input, a constant, or the result of a step.

    Attributes:
        shape: physical shape (blocked layouts spelt out), dimensions possibly symbolic.
        slot: index of the planned allocation it lives in; None for inputs, constants, outputs and symbolic sizes.
    """

    name: str
    type: TensorType
    shape: Shape
    data: Array | None = None
    value: Value | None = None
    slot: int | None = None

    @property
    def static_bytes(self) -> int | None:
        """Size in bytes, None if symbolic."""
        total = (self.type.dtype.bits + 7) // 8
        for d in self.shape:
            if not isinstance(d, int):
                return None
            total *= d
        return total


@dataclass(eq=False)
class KernelStep:
    """Call ``function(*inputs, *outputs, *symbols)``.

    Attributes:
        flops: operations that the nodes ask for (`graphopt.ops.flops`), None when sizes are symbolic.
        bytes: operands and results once each (`graphopt.backends.base.work`), None when sizes are symbolic.
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


@dataclass(eq=False)
class ViewStep:
    """``output`` is ``input`` under another shape: no copy."""

    input: Buffer
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


Step = KernelStep | ViewStep | BindStep | BranchStep


@dataclass(eq=False)
class Program:
    """Everything that runs: steps in order, kernels by name, buffers.

    Attributes:
        functions: PrimFuncs, each structurally distinct (equal kernels are emitted once).
        slots: planned allocations in bytes.
    """

    name: str
    target: Target
    inputs: list[Buffer]
    outputs: list[Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    constants: list[Buffer] = field(default_factory=list)
    functions: dict[str, Any] = field(default_factory=dict)
    slots: list[int] = field(default_factory=list)

    @property
    def kernels(self) -> list[KernelStep]:
        """Kernel calls in order."""
        return [s for s in self.steps if isinstance(s, KernelStep)]


def plan_buffers(program: Program) -> None:
    """Give every intermediate of known size a slot, reusing slots whose contents are dead (best fit, first free).

    Views keep the slot of what they view alive. Buffers that leave the program are not planned: the caller owns them.
    """
    root: dict[Buffer, Buffer] = {}

    def owner(b: Buffer) -> Buffer:
        while b in root:
            b = root[b]
        return b

    last: dict[Buffer, int] = {}
    keep: set[Buffer] = set()
    for i, step in enumerate(program.steps):
        if isinstance(step, ViewStep):
            root[step.output] = step.input
        for b in _reads(step):
            last[owner(b)] = i
    keep.update(owner(b) for b in program.outputs)
    free: list[int] = []
    held: dict[int, list[int]] = {}
    for i, step in enumerate(program.steps):
        outputs = step.outputs if isinstance(step, KernelStep) else []
        for b in outputs:
            size = b.static_bytes
            if size is None or b in keep:
                continue
            fitting = sorted((s for s in free if program.slots[s] >= size), key=lambda s: program.slots[s])
            if fitting and program.slots[fitting[0]] <= 4 * max(size, 1):
                slot = fitting[0]
            elif free and not fitting:
                slot = max(free, key=lambda s: program.slots[s])
                program.slots[slot] = size
            else:
                slot = len(program.slots)
                program.slots.append(size)
                free.append(slot)
            free.remove(slot)
            b.slot = slot
            held.setdefault(last.get(b, i), []).append(slot)
        free.extend(held.pop(i, []))


def _reads(step: Step) -> list[Buffer]:
    if isinstance(step, KernelStep):
        return step.inputs
    if isinstance(step, BranchStep):
        return [step.condition, *step.then.arguments, *step.otherwise.arguments]
    return [step.input]


def format_program(program: Program) -> str:
    """Text of the third level."""
    lines = [f"program {program.name} for {program.target.name} {{"]
    lines += [f"  input %{b.name}: {_text(b)}" for b in program.inputs]
    total = sum(b.data.nbytes for b in program.constants if b.data is not None)
    lines.append(f"  constants: {len(program.constants)} ({total} bytes)")
    lines.append(f"  slots: {len(program.slots)} ({sum(program.slots)} bytes) {program.slots}")
    for step in program.steps:
        if isinstance(step, KernelStep):
            outs = ", ".join(f"%{b.name}: {_text(b)}{_place(b)}" for b in step.outputs)
            ins = ", ".join(f"%{b.name}" for b in step.inputs)
            extra = f" [{', '.join(step.symbols)}]" if step.symbols else ""
            how = f"{step.template}{' ' + step.config if step.config else ''}"
            lines.append(f"  {outs} = {step.function}({ins}){extra}  // {how}; {step.label}")
        elif isinstance(step, ViewStep):
            lines.append(f"  %{step.output.name}: {_text(step.output)} = view(%{step.input.name})")
        elif isinstance(step, BindStep):
            lines.append(f"  {', '.join(step.symbols)} = elements(%{step.input.name})")
        else:
            outs = ", ".join(f"%{b.name}: {_text(b)}" for b in step.outputs)
            lines.append(f"  {outs} = if %{step.condition.name} {_call(step.then)} else {_call(step.otherwise)}")
    lines.append("  return " + ", ".join(f"%{b.name}" for b in program.outputs))
    lines.append("}")
    for step in program.steps:
        if isinstance(step, BranchStep):
            lines += [format_program(sub.program) for sub in (step.then, step.otherwise)]
    return "\n".join(lines)


def _call(sub: SubProgram) -> str:
    symbols = f" [{', '.join(sub.symbols)}]" if sub.symbols else ""
    return f"{sub.program.name}({', '.join(f'%{b.name}' for b in sub.arguments)}){symbols}"


def _text(b: Buffer) -> str:
    return str(TensorType(b.type.dtype, b.shape))


def _place(b: Buffer) -> str:
    return "" if b.slot is None else f" @{b.slot}"

"""From a program to a TVM module of Relax functions that call kernels in order.

``layout() -> sizes, places[, extents[, lodgers]]`` says how many bytes of memory ``prepare`` takes in each of its arguments, and
for each result of the model at which position, counted from 1, of the prepared tensors it lies, or 0 if ``main`` returns it.
``extents`` are there if buffers follow from the extents of inputs: the number of slots, then pairs of an input and an axis, in
turn. One behind the last input stands for the length of states. ``lodgers`` are there if some of these buffers may lie inside of
others: for each in turn the memory of its own and the one that it may lie in, numbers of slots and behind them of lodgers.

A library for ARM fails there, before any other code of it runs, on a processor that lacks instructions.

``prepare(*memory) -> tensors`` makes tensors of the planned buffers; an executor calls it once for every arena, with memory that is
aligned as `graphopt.backends.program.plan` says.

``size(*inputs) -> numbers`` checks extents and gives, in one shape, them, the dimensions that are computed from them, the bytes of
each slot, and where each lodger begins in the other memory, -1 if it lies in its own.
``place(numbers, *slots, *lodgers, *constants, *prepared) -> closure`` makes tensors of the buffers in slots and of lodgers, which
are memory that is aligned as buffers are; the closure takes inputs and calls ``main``. Both are called for new extents only. Where
a model has states, `size` takes a shape before the inputs, of their length, and the memory of each state is a further slot.

``main(*inputs, *constants, *prepared) -> results`` runs the model; it allocates what it returns and what only values decide the
size of, nothing else. Where there are extents, further arguments follow: the shape that ``place`` took, extents and computed
dimensions one by one, and the tensors in slots. One result is returned as it is, several as a tuple. Two runs on the same tensors
must not overlap in time.

Kernels take no byte offsets, but the tensors of ``prepare`` have them: the host must move them into the data pointers first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.dim_names import variable_name
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.tvm_api import relax, tirx, tvm
from graphopt.backends.build.processor import REQUIRE, asks
from graphopt.backends.program.plan import buffers_of
from graphopt.backends.program.program import (
    BindStep,
    BranchStep,
    Buffer,
    KernelStep,
    Program,
    Sizing,
    Step,
    SubProgram,
    ViewStep,
)
from graphopt.backends.tensors.dim_expr import dim_expr
from graphopt.backends.tensors.opaque import opaque
from graphopt.errors import InternalError
from graphopt.ir.dims import Dim


def to_module(program: Program) -> Any:
    """The module of ``program``: PrimFuncs, ``prepare`` and ``main``."""
    builder = relax.BlockBuilder()
    for key, func in program.functions.items():
        builder.add_func(func, key)
    prepared = _prepared(program)
    main = _Emitter(builder, program).function("main")
    _emit_prepare(builder, prepared)
    _emit_layout(builder, program, prepared)
    if program.sizing is not None:
        _Emitter(builder, program).sizing(program.sizing, main, len(prepared))
    return builder.get()


def _subprograms(program: Program) -> list[SubProgram]:
    return [sub for s in program.steps if isinstance(s, BranchStep) for sub in (s.then, s.otherwise)]


def _used(program: Program) -> list[Buffer]:
    """Buffers in the arena that a step needs as a tensor."""
    return [b for b in _needed(program) if b.offset is not None]


def _in_slots(program: Program) -> list[Buffer]:
    """Buffers in slots that a step needs as a tensor."""
    return [b for b in _needed(program) if b.slot is not None]


def _needed(program: Program) -> list[Buffer]:
    """What the steps write and need as a tensor."""
    needed: dict[Buffer, None] = {}
    for step in program.steps:
        found: Sequence[Buffer] = ()
        if isinstance(step, KernelStep):
            found = (*step.inputs, *step.outputs, *step.scratch)
        elif isinstance(step, BindStep) or (isinstance(step, ViewStep) and not step.output.is_planned):
            found = (step.input,)
        elif isinstance(step, BranchStep):
            found = (step.condition, *step.then.arguments, *step.otherwise.arguments)
        needed.update(dict.fromkeys(found))
    needed.update(dict.fromkeys(program.outputs))
    return [b for b in buffers_of(program) if b in needed]


def _prepared(program: Program) -> list[tuple[Program, Buffer]]:
    """Planned buffers of a program, then of the programs that it calls: the parameters that ``main`` takes last."""
    found = [(program, b) for b in _used(program)]
    for sub in _subprograms(program):
        found += _prepared(sub.program)
    return found


def _emit_prepare(builder: Any, prepared: Sequence[tuple[Program, Buffer]]) -> None:
    arenas = {owner: relax.Var(f"arena{i}", relax.ObjectType()) for i, owner in enumerate(_owners(prepared))}
    tensors = []
    with builder.function("prepare", list(arenas.values())):
        for owner, b in prepared:
            assert b.offset is not None
            shape = relax.ShapeExpr([tirx.const(d, "int64") for d in b.shape])
            tensors.append(builder.emit(_tensor_in(arenas[owner], tirx.const(b.offset, "int64"), b, shape)))
        builder.emit_func_output(relax.Tuple(tensors))


def _emit_layout(builder: Any, program: Program, prepared: Sequence[tuple[Program, Buffer]]) -> None:
    places = {b: position for position, (_, b) in enumerate(prepared, 1)}
    found = [[p.arena_bytes for p in _owners(prepared)], [places.get(b, 0) for b in program.outputs]]
    if program.sizing is not None:
        sizing = program.sizing
        found.append([len(sizing.slots), *(n for place in sizing.extents.values() for n in place)])
        if sizing.lodgers:
            found.append([n for b in sizing.lodgers for n in _memories(b, sizing)])
    with builder.function("layout", []):
        if (
            asks(program.target.triple) and not program.target.arches
        ):  # around kernels of a GPU there is little to ask for
            builder.emit(relax.Call(relax.ExternFunc(REQUIRE), [], ty_args=[relax.TupleType([])]))
        builder.emit_func_output(
            relax.Tuple([relax.ShapeExpr([tirx.const(n, "int64") for n in part]) for part in found])
        )


def _memories(lodger: Buffer, sizing: Sizing) -> tuple[int, int]:
    """Numbers of the memory of a lodger's own and of that of its home: slots, and behind them those of lodgers."""
    assert lodger.lodging is not None
    home = lodger.lodging.home.root[0]
    if lodger.slot is None or home.slot is None:
        raise InternalError(f"buffer {lodger.name} may lie inside {home.name}, which has no place")
    return lodger.slot, home.slot if home.lodging is None else len(sizing.slots) + sizing.lodgers.index(home)


def _owners(prepared: Sequence[tuple[Program, Buffer]]) -> list[Program]:
    """The programs that have planned buffers."""
    return list(dict.fromkeys(owner for owner, _ in prepared))


def _tensor_in(memory: Any, offset: Any, b: Buffer, shape: Any) -> Any:
    """The tensor of a buffer that starts ``offset`` bytes into ``memory``."""
    dtype = element_type(b.type.dtype).storage
    return relax.op.call_pure_packed(
        "runtime.TVMTensorCreateView", memory, shape, tvm.ir.GenericConst(tvm.DataType(dtype), relax.AnyType()),
        offset, ty_args=relax.TensorType(shape, dtype),
    )  # fmt: skip


def _typed(program: Program) -> set[Buffer]:
    """Parameters whose type must be known: those that bring symbols, and what other steps than kernels use.

    The others are plain objects to the VM, which checks every parameter of known type in every run.
    """
    found = {b for b in program.inputs if b.static_bytes is None and program.sizing is None}
    for step in program.steps:
        if isinstance(step, BindStep) or (isinstance(step, ViewStep) and not step.output.is_planned):
            found.add(step.input)
        elif isinstance(step, BranchStep):
            found.add(step.condition)
            for sub in (step.then, step.otherwise):
                inner = _typed(sub.program)
                params = [*sub.program.inputs, *sub.program.constants]
                found |= {a for a, p in zip(sub.arguments, params) if p in inner}
    return found | {b for b in program.outputs if not b.is_planned}


HOST = 1
"""The virtual machine's number of the host where models run on a device, which is number 0."""


class _Emitter:
    """Emits the function of one program."""

    def __init__(self, builder: Any, program: Program) -> None:
        self.bb = builder
        self.program = program
        self.symbols: dict[str, Any] = {}
        self.vars: dict[Buffer, Any] = {}
        self.called: dict[SubProgram, Any] = {}
        self.scratch: dict[SubProgram, list[Any]] = {}
        self.prepared: list[Any] = []
        self.numbers: dict[str, Any] = {}
        self.typed = _typed(program)

    def function(self, name: str, symbols: list[str] | None = None) -> Any:
        """Add the Relax function of the program; returns its global variable.

        Args:
            symbols: for a program called by another one: the dimensions that it takes as a shape after its tensors.
        """
        program = self.program
        inner: dict[SubProgram, _Emitter] = {}
        for i, step in enumerate(program.steps):
            if isinstance(step, BranchStep):
                for sub, side in ((step.then, "then"), (step.otherwise, "else")):
                    inner[sub] = _Emitter(self.bb, sub.program)
                    self.called[sub] = inner[sub].function(f"{name}_{i}_{side}", sub.symbols)
        params = []
        typed = self.typed
        for i, b in enumerate([*program.inputs, *program.constants]):
            kind = "in" if i < len(program.inputs) else "c"
            params.append(self._param(f"{kind}{i}", b, b in typed))
        if symbols:
            params.append(self._shape_param(symbols))
        params += [self._param(f"s{i}", b, b in typed) for i, b in enumerate(_used(program))]
        self.prepared = [self._param_type(b, b in typed) for b in _used(program)]
        for sub in _subprograms(program):
            types = inner[sub].prepared
            self.scratch[sub] = [relax.Var(f"s{len(params) + i}", t) for i, t in enumerate(types)]
            params += self.scratch[sub]
            self.prepared += types
        if program.sizing is not None:
            params += self._sized(program.sizing)
        with self.bb.function(name, params, private=symbols is not None):
            for step in program.steps:
                self._step(step)
            # a planned result is known to the host, which reads it where it lies
            called = symbols is not None
            results = [self.vars[b] for b in program.outputs if called or b.offset is None]  # no result is in a slot
            single = len(results) == 1 and not called
            return self.bb.emit_func_output(results[0] if single else relax.Tuple(results))

    def sizing(self, sizing: Sizing, main: Any, prepared: int) -> None:
        """Add the functions that the host calls for new extents.

        Args:
            main: the function of the program.
            prepared: how many tensors it takes behind its constants.
        """
        program = self.program
        lengths = [name for name, (i, _) in sizing.extents.items() if i == len(program.inputs)]
        inputs = [self._shape_param(lengths)] if lengths else []
        inputs += [relax.Var(f"in{i}", self.type(b, define=True)) for i, b in enumerate(program.inputs)]
        names = [*sizing.extents, *sizing.computed]
        with self.bb.function("size", inputs):
            for step in sizing.steps:
                self._step(step)
            self.bb.emit_func_output(self._numbers([*names, *sizing.slots, *sizing.places]))
        self.symbols = {}
        numbers = self._shape_param([*names, *sizing.slots, *sizing.places])
        count = len(sizing.slots) + len(sizing.states) + len(sizing.lodgers)
        slots = [relax.Var(f"slot{i}", relax.ObjectType()) for i in range(count)]
        fixed = [relax.Var(f"s{i}", relax.ObjectType()) for i in range(len(program.constants) + prepared)]
        with self.bb.function("place", [numbers, *slots, *fixed]):
            bound = [*fixed, numbers, *map(self._number, names)]
            memory = slots[: len(slots) - len(sizing.lodgers)]
            lodgings = dict(zip(sizing.lodgers, slots[len(memory) :]))
            for b in _in_slots(program):
                assert b.slot is not None
                there = lodgings.get(b.root[0], memory[b.slot])
                bound.append(self.bb.emit(_tensor_in(there, tirx.const(0, "int64"), b, self._shape(b))))
            self.bb.emit_func_output(self.bb.emit(relax.op.make_closure(main, bound)))

    def _sized(self, sizing: Sizing) -> list[Any]:
        """Parameters of what ``place`` binds."""
        names = [*sizing.extents, *sizing.computed]
        params = [self._shape_param([*names, *sizing.slots, *sizing.places])]
        for i, name in enumerate(names):
            # as objects: the virtual machine would make each number anew for every call
            self.numbers[name] = relax.Var(f"n{i}", relax.ObjectType())
            params.append(self.numbers[name])
        return params + [self._param(f"p{i}", b, b in self.typed) for i, b in enumerate(_in_slots(self.program))]

    def _shape_param(self, names: Sequence[str]) -> Any:
        """A parameter of a shape, of which each dimension gets a name."""
        shape = [self.symbols.setdefault(s, tirx.Var(variable_name(s), "int64")) for s in names]
        return relax.Var("dims", relax.ShapeType(shape))

    def _numbers(self, names: Sequence[str]) -> Any:
        return relax.ShapeExpr([self._symbol(s) for s in names])

    def _param(self, name: str, b: Buffer, typed: bool) -> Any:
        self.vars[b] = relax.Var(name, self._param_type(b, typed))
        return self.vars[b]

    def _param_type(self, b: Buffer, typed: bool) -> Any:
        return self.type(b, define=True) if typed else relax.ObjectType()

    def _step(self, step: Step) -> None:
        if isinstance(step, KernelStep):
            self._kernel(step)
        elif isinstance(step, ViewStep):
            self._view(step)
        elif isinstance(step, BindStep):
            self._bind(step)
        elif isinstance(step, BranchStep):
            self._branch(step)

    def _view(self, step: ViewStep) -> None:
        if step.output.is_planned:
            return  # a parameter, or nobody needs it as a tensor
        if 0 in step.output.shape:  # Relax takes a 0 for "as in the operand"; there is nothing to view anyway
            self.vars[step.output] = self._allocated(step.output)
        else:
            self.vars[step.output] = self.bb.emit(relax.op.reshape(self.vars[step.input], self._shape(step.output)))

    def _kernel(self, step: KernelStep) -> None:
        for b in step.outputs:
            if not b.is_planned:
                self.vars[b] = self._allocated(b)
        args = [self.vars[b] for b in (*step.inputs, *step.outputs, *step.scratch)]
        args += [self.numbers[s] if s in self.numbers else self._number(s) for s in step.symbols]
        # called by name: Relax refuses operands of unknown type for a function of its own
        self.bb.emit(relax.Call(relax.ExternFunc(step.function), args, ty_args=[relax.TupleType([])]))

    def _number(self, name: str) -> Any:
        return relax.PrimValue(self._symbol(name)) if hasattr(relax, "PrimValue") else self._symbol(name)

    def _allocated(self, b: Buffer) -> Any:
        """A tensor of this run: what leaves the program, or is of unknown size."""
        if b.root[1] or len(b.hosts) > 1:
            raise InternalError(f"buffer {b.name} lies inside {b.hosts[-1].name}, which has no place")
        dtype = element_type(b.type.dtype).storage
        if b.on_host:  # TVM's memory planning would take device number 0 for it
            assert b.static_bytes is not None
            size = relax.ShapeExpr([tirx.const(b.static_bytes, "int64")])
            storage = self.bb.emit(relax.op.memory.alloc_storage(size, HOST, "global", dtype))
            return self.bb.emit(relax.op.memory.alloc_tensor(storage, 0, self._shape(b), dtype, HOST))
        return self.bb.emit(relax.op.builtin.alloc_tensor(self._shape(b), dtype, 0, "global"))

    def _bind(self, step: BindStep) -> None:
        shape = self.bb.emit(
            relax.op.call_pure_packed(
                "vm.builtin.tensor_to_shape", self.vars[step.input], ty_args=relax.ShapeType(ndim=len(step.symbols))
            )
        )
        for name in step.symbols:
            self.symbols.setdefault(name, tirx.Var(variable_name(name), "int64"))
        self.bb.match_cast(shape, relax.ShapeType([self.symbols[s] for s in step.symbols]))

    def _branch(self, step: BranchStep) -> None:
        condition = self.vars[step.condition]
        if step.condition.shape:
            condition = self.bb.emit(relax.op.reshape(condition, self._shape_of([])))
        result = self.bb.emit(relax.If(condition, self._call(step.then), self._call(step.otherwise)))
        for name in step.defines:
            self.symbols[name] = tirx.Var(variable_name(name), "int64")
        for i, b in enumerate(step.outputs):
            self.vars[b] = self.bb.emit(relax.TupleGetItem(result, i))
            if b.static_bytes is None or b in self.typed:  # the branches' types may agree in the rank only
                self.vars[b] = self.bb.match_cast(self.vars[b], self.type(b))

    def _call(self, sub: SubProgram) -> Any:
        args = [self.vars[b] for b in sub.arguments]
        if sub.symbols:
            args.append(self._numbers(sub.symbols))
        return relax.Call(self.called[sub], [*args, *self.scratch[sub]])

    def _symbol(self, name: str) -> Any:
        if name not in self.symbols:
            raise InternalError(f"dimension {name} is used before it is defined")
        return self.symbols[name]

    def type(self, b: Buffer, define: bool = False) -> Any:
        """The tensor type of a buffer; ``define`` makes variables of its symbols."""
        if define:
            for d in b.shape:
                for s in [] if isinstance(d, int) else d.symbols():
                    self.symbols.setdefault(s, tirx.Var(variable_name(s), "int64"))
        return relax.TensorType(self._shape(b), element_type(b.type.dtype).storage)

    def _shape(self, b: Buffer) -> Any:
        return self._shape_of(b.shape)

    def _shape_of(self, dims: Any) -> Any:
        return relax.ShapeExpr([self._dim(d) for d in dims])

    def _dim(self, d: Dim) -> Any:
        # Bounds are hidden: StaticPlanBlockMemory allocates as much as a tensor may take at most, which for min(N, 10**9) is
        # more than there is.
        return tirx.const(d, "int64") if isinstance(d, int) else dim_expr(d, self._symbol, opaque)


__all__ = ["to_module", "tvm"]

"""From the second level to the third: choose a template for every group, emit kernels once each, plan buffers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.backends.base.dialect import written_in
from graphopt.backends.base.dim_names import DimNames
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.target import Target
from graphopt.backends.base.template import KernelCall, KernelTemplate, Operand
from graphopt.backends.base.tvm_api import tvm_ffi
from graphopt.backends.lower.copy import emit_copy
from graphopt.backends.program.appending import append
from graphopt.backends.program.constants import Constants
from graphopt.backends.program.control import lower_branch
from graphopt.backends.program.emission import Emission
from graphopt.backends.program.fusing import fuse
from graphopt.backends.program.open_placement import idle_where
from graphopt.backends.program.placement import place
from graphopt.backends.program.plan import is_copied, plan_buffers
from graphopt.backends.program.platform import Platform
from graphopt.backends.program.program import BranchStep, Buffer, KernelStep, Program, ViewStep
from graphopt.backends.program.run_time_dims import RunTimeDims
from graphopt.backends.program.scratch import scratch_buffers
from graphopt.backends.program.work import kernel_bytes
from graphopt.backends.program.written import Written
from graphopt.backends.tensors.unaligned import accept_unaligned
from graphopt.errors import UnsupportedOpError
from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import symbol, symbols_of
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import FusedGraph, Group, GroupKind
from graphopt.ir.graph import Array, Graph, Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ir.types import Shape, TensorType
from graphopt.ops.flops import group_flops
from graphopt.passes.partition.shape_arithmetic import is_shape_arithmetic


def lower(fused: FusedGraph, target: Target, platform: Platform, templates: Sequence[KernelTemplate[Any]]) -> Program:
    """The program of a fused graph.

    Raises:
        UnsupportedOpError: an operator, element type or shape form has no kernel.
    """
    with written_in(platform.schedule.dialect(target.caps)):
        return Lowering(fused, target, platform, templates).program()


@dataclass
class Lowering:
    """Lowers one graph.

    Attributes:
        templates: of the platform, those that may be used.
        functions: PrimFuncs by name, shared with the programs of subgraphs.
        outer_dims: of the program around a branch's.
        copied: for a branch: which of its results are copied when they leave the caller; None if all are.
    """

    fused: FusedGraph
    target: Target
    platform: Platform
    templates: Sequence[KernelTemplate[Any]]
    buffers: dict[Value, Buffer] = field(default_factory=dict)
    constants: Constants = field(default_factory=Constants)
    by_hash: dict[int, list[str]] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    outer_dims: RunTimeDims | None = None
    outer_names: DimNames | None = None
    copied: Sequence[bool] | None = None

    def __post_init__(self) -> None:
        self.emission = Emission(self.templates, self.target.caps, self.platform)
        self.counts: dict[str, int] = {}
        self.registered: dict[int, tuple[Any, dict[tuple[int, ...], str]]] = {}
        self.dims = RunTimeDims(self) if self.outer_dims is None else self.outer_dims.inner(self)
        root = self.fused.graph.root
        self.names = (self.outer_names or DimNames(str, spells_selections=not self.platform.shares_memory)).inner(
            lambda: root.fresh_symbol("@d", SymbolKind.computed).name
        )

    def program(self) -> Program:
        """The program, its buffers planned."""
        graph = self.fused.graph
        states = self.fused.options.states if self.outer_dims is None else ()
        kept = {value for state in states for value in (state.past, state.present)}
        inputs = [self.buffer(v) for v in graph.inputs if v not in kept]
        self.out = out = Program(_identifier(graph.name or "main"), self.target, inputs, functions=self.functions)
        self.written = Written(out.steps)
        self.dims.begin([v for v in graph.inputs if v not in kept], states, self.outer_dims is not None)
        for value in graph.inputs:
            self.dims.bind(value)
        for group in self.fused.groups:
            if group.kind is not GroupKind.control:
                self.dims.measure(group)
            if group.kind is GroupKind.view:
                self._view(group)
            elif group.kind is GroupKind.control:
                self._branch(group)
            else:
                self._compute(group)
            for value in group.outputs:
                self.dims.bind(value)
        for value in graph.outputs:
            if value not in kept:
                out.outputs.append(self._result(value))
        self.dims.check_at_entry()
        out.sizing = self.dims.sizing
        if self.platform.plans_memory:
            copied = self.copied or [self.platform.copies_small_results] * len(out.outputs)
            plan_buffers(out, [b for b, is_so in zip(out.outputs, copied, strict=True) if is_so])
            self.dims.plan()
        return out

    def inner(self, graph: Graph, copied: Sequence[bool]) -> Lowering:
        """What lowers a branch of a node of this graph, with all that is known here.

        Args:
            copied: which of the branch's results are copied when they leave this program.
        """
        return Lowering(
            fuse(graph, self.target, self.platform, self.fused.options), self.target, self.platform, self.templates,
            by_hash=self.by_hash, functions=self.functions, outer_dims=self.dims, outer_names=self.names, copied=copied,
            constants=Constants(self.constants),
        )  # fmt: skip

    @property
    def captured(self) -> list[Value]:
        """Values of enclosing graphs that the program reads."""
        graph = self.fused.graph
        return [
            v for v in self.buffers
            if v.data is None and v not in graph.inputs and (v.producer is None or v.producer.graph is not graph)
        ]  # fmt: skip

    # -- buffers ------------------------------------------------------------------------------------------------
    def buffer(self, value: Value) -> Buffer:
        """The buffer of a value in the layout that the fused graph gives it."""
        if value not in self.buffers:
            element_type(value.dtype, value.producer.label if value.producer else None)
            type_ = TensorType(value.dtype, value.shape)
            buffer = Buffer(value.name, type_, self._aliased(self._physical(value)), value=value)
            if value.data is not None:
                buffer = self._constant(np.ascontiguousarray(value.data).reshape(value.data.shape), buffer)
            elif value.producer is not None and value.producer.graph is self.fused.graph:
                self._takes_memory(value, self.fused.layout(value))
            self.buffers[value] = buffer
        return self.buffers[value]

    def _takes_memory(self, value: Value, layout: Layout) -> None:
        if self.platform.shares_memory:  # else nothing on the host computes with dimensions
            self.dims.memory.add(value, layout.physical_shape(value.shape))

    def _physical(self, value: Value) -> Shape:
        return self.fused.layout(value).physical_shape(value.shape)

    def operand(self, operand: Operand, name: str) -> Buffer:
        """The buffer of an operand; constants that kernels read in the same order are stored once."""
        if isinstance(operand, Value):
            return self.buffer(operand)
        array = self.constants.array(operand)
        shape = tuple(int(d) for d in array.shape)
        return self._constant(array, Buffer(name, TensorType(DType.from_numpy(array.dtype), shape), shape))

    def _constant(self, array: Array, buffer: Buffer) -> Buffer:
        """The constant that holds what ``array`` holds: ``buffer`` if it is the first."""

        def first() -> Buffer:
            buffer.data = array
            self.out.constants.append(buffer)
            return buffer

        return self.constants.buffer(array, first)

    def _aliased(self, shape: Shape) -> Shape:
        return tuple(
            d if (name := self.names.name(d, True)) is None else symbol(name, SymbolKind.computed) for d in shape
        )

    # -- results and copies -----------------------------------------------------------------------------------------
    def _result(self, value: Value) -> Buffer:
        found = self.buffers.get(value)
        taken = {b.root[0] for b in self.out.outputs}  # callers may write to one result without changing another
        if found is None or found.root[0] in taken or not self.written.is_made(found) or self._may_be_of_branch(found):
            return self._copy(value)
        return found

    def _may_be_of_branch(self, buffer: Buffer) -> bool:
        """Whether it may lie in the arena of a branch, which keeps it until it runs again only."""
        root = buffer.root[0]
        return not self.written.is_planned(root) and is_copied(root) and self.platform.copies_small_results

    def plain(self, value: Value) -> Buffer:
        """A buffer with the value's elements in plain layout, made if it has none."""
        known = value.content is not None and value.data is None and not value.binds
        if known or not self.fused.layout(value).is_plain:
            return self._copy(value)
        return self.buffer(value)

    def _copy(self, value: Value) -> Buffer:
        return self._copied(value, f"{value.name}_copy", PLAIN)

    def copy_into(self, value: Value, home: Buffer, shift: int, layout: Layout) -> Buffer:
        """A copy of ``value`` in some layout, ``shift`` bytes into another buffer."""
        copy = self._copied(value, f"{value.name}_in_{home.name}", layout)
        copy.home, copy.shift = home, shift
        return copy

    def _copied(self, value: Value, name: str, layout: Layout) -> Buffer:
        copy = Buffer(name, TensorType(value.dtype, value.shape), self._aliased(layout.physical_shape(value.shape)))
        self._takes_memory(value, layout)
        function, sources, symbols = emit_copy(
            value, self.fused, self.target.caps, self.platform.schedule, self.names, layout
        )
        self.dims.settle(value.name)
        operands = [self.buffer(v) for v in sources]
        kernel = self.add(function, "copy", operands)
        self.out.steps.append(KernelStep(kernel, operands, [copy], symbols, "copy"))
        return copy

    # -- steps --------------------------------------------------------------------------------------------------
    def _compute(self, group: Group) -> None:
        if not (append(self, group) or place(self, group)):
            self.kernel(group)

    def kernel(self, group: Group, unless: str | None = None) -> None:
        """A kernel for a group.

        Args:
            unless: a symbol that is not 0 where the kernel has nothing to do.
        """
        call = KernelCall(self.fused, group, self.names)
        kernel = self.emission.kernel(call)
        emitted, chosen = kernel.emitted, kernel.chosen
        outputs = [self.buffer(v) for v in group.outputs]
        self.dims.settle(group.anchor.label)
        self.dims.require(emitted.symbols, group.anchor.label)
        inputs = [self.operand(o, f"{group.anchor.name}_packed{i}") for i, o in enumerate(emitted.inputs)]
        function = emitted.function if unless is None else idle_where(emitted.function, unless)
        symbols = [*emitted.symbols] if unless is None else [*emitted.symbols, unless]
        name = self.add(function, group.label, inputs)
        origins = tuple(dict.fromkeys(o for n in group.nodes for o in n.origins))
        label = group.anchor.name + (f" + {len(group.nodes) - 1}" if len(group.nodes) > 1 else "")
        work = group_flops(group.nodes), kernel_bytes(group, inputs, outputs)
        how, text = ("generic", "") if chosen is None else (chosen.template.name, str(chosen.config))
        step = KernelStep(name, inputs, outputs, symbols, label, how, text, origins, *work)
        step.anchor, step.choice, step.scratch = group.anchor.name, kernel.choice, scratch_buffers(emitted, name)
        step.candidates, step.seconds = tuple(map(str, kernel.candidates)), None if chosen is None else chosen.seconds
        self.out.steps.append(step)

    def _view(self, group: Group) -> None:
        node = group.nodes[0]
        source = node.input(0)
        assert source is not None
        known = source.producer is not None and is_shape_arithmetic(source.producer)  # no kernel has written it
        step = ViewStep(self._copy(source) if known else self.buffer(source), self.buffer(node.out))
        step.output.home = step.input
        self.dims.settle(node.label)
        self.dims.require(sorted(symbols_of(*step.output.shape)), node.label)
        self.out.steps.append(step)

    def _branch(self, group: Group) -> None:
        node = group.nodes[0]
        if node.op != "If":
            raise UnsupportedOpError(
                f"{node.op} is not compiled yet", node=node.label,
                hint="unroll the loop when exporting, or run this part of the model outside",
            )  # fmt: skip
        condition = node.input(0)
        assert condition is not None
        tested = self.plain(condition)
        self.dims.settle(node.label)
        then, otherwise = (lower_branch(node, name, self) for name in ("then_branch", "else_branch"))
        outputs = [self.buffer(v) for v in node.outputs if v is not None]
        self.dims.settle(node.label)
        defines = sorted(symbols_of(*(d for b in outputs for d in b.shape)) - self.dims.defined)
        self.out.steps.append(BranchStep(tested, then, otherwise, outputs, defines))
        self.dims.defined |= set(defines)

    # -- functions ----------------------------------------------------------------------------------------------
    def add(self, function: Any, label: str, operands: Sequence[Buffer]) -> str:
        """Register a PrimFunc, or find the structurally equal one that is there.

        What is not made in this program may be the caller's arrays, which start anywhere.
        """
        foreign = tuple(i for i, b in enumerate(operands) if b.data is None and not self.written.is_own(b))
        foreign = foreign if self.platform.shares_memory else ()
        names = self.registered.setdefault(id(function), (function, {}))[1]  # the function stays, so its id does
        if foreign not in names:
            names[foreign] = self._registered(accept_unaligned(function, foreign) if foreign else function, label)
        return names[foreign]

    def _registered(self, function: Any, label: str) -> str:
        anonymous = function.without_attr("global_symbol")
        key = int(tvm_ffi.structural_hash(anonymous))
        for name in self.by_hash.get(key, []):
            if tvm_ffi.structural_equal(self.out.functions[name].without_attr("global_symbol"), anonymous):
                return name
        base = _identifier(label)
        name, n = base, self.counts.get(base, 0)
        while name in self.out.functions:
            n += 1
            name = f"{base}_{n}"
        self.counts[base] = n
        self.out.functions[name] = function.with_attr("global_symbol", name)
        self.by_hash.setdefault(key, []).append(name)
        return name


def _identifier(text: str) -> str:
    clean = re.sub(r"\W", "_", text, flags=re.ASCII)
    return (
        f"k_{clean}"
        if not clean or clean[0].isdigit() or clean in ("layout", "main", "place", "prepare", "size")
        else clean
    )

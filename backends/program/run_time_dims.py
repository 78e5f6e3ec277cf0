"""When a program computes dimensions that no number stands for, and checks what must hold of them.

What follows from the extents of the inputs alone is computed before anything runs, and once for as long as inputs of these extents
come (`graphopt.backends.program.program.Sizing`); what takes a value of a tensor, after the step that brings it. Programs of
branches check when they are called, since what only one branch asks for must hold only if that one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.backends.base.template import KernelCall
from graphopt.backends.lower.generic import GroupLowering
from graphopt.backends.program.dims import by_host, bytes_kernel, dims_kernel, elements_kernel, integers, measure_kernel
from graphopt.backends.program.memory_checks import MemoryChecks
from graphopt.backends.program.plan import buffers_of
from graphopt.backends.program.program import BindStep, Buffer, KernelStep, Lodging, Sizing, Step
from graphopt.backends.program.slots import MOST_SIZES, NOMINAL, Slot, nominal, plan_slots
from graphopt.errors import UnsupportedOpError
from graphopt.ir.dims import Dim, as_symbol, symbol, symbols_of, where
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import Group
from graphopt.ir.graph import Node, Value
from graphopt.ir.state import State

if TYPE_CHECKING:
    from graphopt.backends.program.lowering import Lowering

ENTRY_CHECKS = 64
"""Most sizes that one kernel checks."""


def _beginning(lodging: Lodging) -> Dim:
    """Where a lodger begins in its home, -1 if it lies elsewhere."""
    return lodging.shift if lodging.flag is None else where(symbol(lodging.flag), lodging.shift, -1)


@dataclass
class RunTimeDims:
    """The dimensions of one program.

    Attributes:
        lowering: of that program.
        defined: symbols with a value at run time at the current step.
        checked: constraints that hold from the current step on.
        titles: what symbols stand for that are elements of tensors.
        memory: sizes to be checked before they are allocated.
        sizing: what is computed once for inputs of the same extents; None where every run computes all.
    """

    lowering: Lowering
    defined: set[str] = field(default_factory=set)
    checked: set[tuple[Dim, Dim]] = field(default_factory=set)
    titles: dict[str, str] = field(default_factory=dict)
    memory: MemoryChecks = field(default_factory=MemoryChecks)
    sizing: Sizing | None = None

    def begin(self, inputs: Sequence[Value], states: Sequence[State], is_called: bool) -> None:
        """Inputs bring symbols, and states that of their length.

        Args:
            is_called: by another program, which has its own inputs.
        """
        self.defined |= symbols_of(*(d for value in inputs for d in value.shape)) | {s.length for s in states}
        self._entry = frozenset(self.defined)
        places = {s.length: (len(inputs), 0) for s in states}
        for i, value in enumerate(inputs):
            for axis, d in enumerate(value.shape):
                if (name := as_symbol(d)) is not None:
                    places.setdefault(name, (i, axis))
        if not is_called and self._entry and self._entry <= places.keys() and self._plans:
            self.sizing = Sizing(dict(sorted(places.items())))
            self.sizing.states = [self.lowering.buffer(s.present) for s in states]

    def inner(self, lowering: Lowering) -> RunTimeDims:
        """Those of a branch's program, with what holds here."""
        return RunTimeDims(lowering, set(self.defined), set(self.checked), dict(self.titles))

    def bind(self, value: Value) -> None:
        """Elements of ``value`` that shapes mention become symbols."""
        if not value.binds or value.content is None or value.content.size == 0:
            return
        names = [next(iter(d.symbols())) for d in value.content.reshape(-1)]
        self.titles |= {n: f"{value.name}[{i}]" if value.shape else value.name for i, n in enumerate(names)}
        lowering = self.lowering
        source = lowering.buffer(value)
        if value.dtype is not DType.i64 or len(value.shape) != 1 or not lowering.fused.layout(value).is_plain:
            call = KernelCall(lowering.fused, Group([], Node("Identity", [value], [], {})), lowering.names)
            kernel = elements_kernel(self._group_lowering(call), value)
            self.settle(value.name)
            source = self._vector(*kernel, len(names), value.name, lowering.out.steps)
        self._define(source, names, lowering.out.steps)

    def measure(self, group: Group) -> None:
        """Extents that depend on data are counted by a kernel of their own before the node's kernel runs."""
        open_ = [d for v in group.outputs for d in v.shape if not isinstance(d, int)]
        names = [n for d in dict.fromkeys(open_) if (n := as_symbol(d)) is not None and n not in self.defined]
        if names:
            call = KernelCall(self.lowering.fused, group, self.lowering.names)
            found = measure_kernel(self._group_lowering(call), group.anchor, len(names))
            if found is not None:
                self.settle(group.anchor.label)
                steps = self.lowering.out.steps
                self._define(self._vector(*found, len(names), group.anchor.name, steps), names, steps)

    def settle(self, label: str) -> None:
        """Compute the dimensions that were given names since the last step, and check what must agree."""
        names = self.lowering.names
        dims, names.pending = names.pending, []
        self.require(sorted(symbols_of(*dims)), label)
        if self.sizing is not None:
            early = [d for d in dims if symbols_of(d) <= self._entry]
            if early:
                self._compute(early, [], [], label, self.sizing.steps)
                dims = [d for d in dims if d not in early]
        equal = [
            (a, b, why) for (a, b), why in self._constraints().items()
            if (a, b) not in self.checked and symbols_of(a, b) & names.bound and symbols_of(a, b) <= self.defined
        ]  # fmt: skip
        self.checked |= {(a, b) for a, b, _ in equal}
        sizes = self.memory.take(lambda used: bool(used & names.bound) and used <= self.defined)
        if dims or equal or sizes:
            self._compute(dims, equal, sizes, label, self.lowering.out.steps)

    def check_at_entry(self) -> None:
        """Check, before anything runs, all that depends on the shapes of inputs alone."""
        graph, out = self.lowering.fused.graph, self.lowering.out
        outer = graph.root.constraints
        equal = [
            (a, b, why) for (a, b), why in graph.constraints.items()
            if (a, b) not in outer and (a, b) not in self.checked and symbols_of(a, b) <= self._entry
        ]  # fmt: skip
        sizes = self.memory.take(lambda used: used <= self._entry)
        steps: list[Step] = []
        for i in range(0, max(len(sizes), 1), ENTRY_CHECKS):
            if equal or sizes:
                self._compute([], equal, sizes[i : i + ENTRY_CHECKS], "", steps, "entry")
                equal = []
        # in place, as others keep the list
        if self.sizing is not None:
            self.sizing.steps[:0] = steps
        else:
            out.steps[:0] = steps

    def plan(self) -> None:
        """Plan the buffers of the program whose size follows from the extents of its inputs."""
        sizing, names = self.sizing, self.lowering.names
        if sizing is None:
            return
        extents = dict.fromkeys(sizing.extents, NOMINAL)
        values = {name: nominal(dim, extents) for dim, name in names.known.items() if name in sizing.computed}
        slots = plan_slots(self.lowering.out, values)
        while slots:
            part: list[Slot] = []
            while slots and sum(len(slot.sizes) for slot in [*part, slots[0]]) <= MOST_SIZES:
                part.append(slots.pop(0))
            function, symbols = bytes_kernel([slot.sizes for slot in part])
            vector = self._vector(function, [], symbols, len(part), "slots", sizing.steps)
            numbers = [names.fresh() for _ in part]
            sizing.steps.append(BindStep(vector, numbers))
            sizing.slots += numbers
        self._place_lodgers(sizing)

    def _place_lodgers(self, sizing: Sizing) -> None:
        """Compute where buffers begin that may lie inside of others."""
        found = {host: None for b in buffers_of(self.lowering.out) for host in reversed(b.hosts) if host.lodging}
        sizing.lodgers = list(found)
        for i in range(0, len(sizing.lodgers), MOST_SIZES):
            part = [_beginning(b.lodging) for b in sizing.lodgers[i : i + MOST_SIZES] if b.lodging is not None]
            function, symbols = dims_kernel(part, [], [], "places", (), self.titles)
            vector = self._vector(function, [], symbols, len(part), "places", sizing.steps)
            numbers = [self.lowering.names.fresh() for _ in part]
            sizing.steps.append(BindStep(vector, numbers))
            sizing.places += numbers

    def require(self, names: Sequence[str], label: str) -> None:
        """Refuse symbols that have no value yet.

        Raises:
            UnsupportedOpError: they have none.
        """
        missing = [n for n in names if n not in self.defined]
        if missing:
            raise UnsupportedOpError(
                f"a shape depends on data that is only known at run time ({', '.join(missing)})",
                code="data-dependent-shape", node=label,
                hint="make the operand that decides the shape a constant, or fix the input shapes with --shape",
            )  # fmt: skip

    @property
    def _plans(self) -> bool:
        platform = self.lowering.platform
        return platform.plans_memory and platform.shares_memory

    def _group_lowering(self, call: KernelCall) -> GroupLowering:
        return GroupLowering(call, self.lowering.target.caps, self.lowering.platform.schedule)

    def _constraints(self) -> dict[tuple[Dim, Dim], str]:
        """What this graph asks of dimensions, and the graph around everything, which nobody else checks."""
        graph = self.lowering.fused.graph
        return {**graph.root.constraints, **graph.constraints}

    def _compute(
        self, dims: Sequence[Dim], equal: Any, sizes: Any, label: str, steps: list[Step], name: str = ""
    ) -> None:
        """A kernel that checks and computes; ``dims`` have values after it."""
        names = self.lowering.names
        function, symbols = dims_kernel(dims, equal, sizes, label, names.extents, self.titles)
        source = self._vector(function, [], symbols, max(len(dims), 1), name or label, steps)
        if dims:
            self._define(source, [names.known[d] for d in dims], steps)

    def _vector(
        self, function: Any, inputs: list[Value], symbols: list[str], count: int, name: str, steps: list[Step]
    ) -> Buffer:
        lowering = self.lowering
        on_host = not (inputs or lowering.platform.shares_memory)
        target, sources = integers(f"{name}_dims", count, on_host), [lowering.buffer(v) for v in inputs]
        kernel = lowering.add(by_host(function) if on_host else function, "dims", sources)
        steps.append(KernelStep(kernel, sources, [target], symbols, f"{name} dims", "dims"))
        return target

    def _define(self, source: Buffer, names: list[str], steps: list[Step]) -> None:
        steps.append(BindStep(source, names))
        self.defined |= set(names)
        self.lowering.names.bound |= set(names)
        if self.sizing is not None and steps is self.sizing.steps:
            self.sizing.computed += names

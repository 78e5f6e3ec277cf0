"""Kernel templates: hand-designed kernels that compete for fused groups, and how one is chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dim_names import DimNames
from graphopt.backends.base.formula import Formula
from graphopt.backends.base.packing import Packing
from graphopt.ir.dims import Dim
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Array, Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ops.context import known_array

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class KernelCall:
    """One group to be computed, with the layouts of its operands fixed.

    Attributes:
        fused: the graph around it, for layouts.
        group: the nodes.
        names: dimensions that the program computes once and binds to a symbol.
        read: receives the constants whose elements the kernel is made of.
    """

    fused: FusedGraph
    group: Group
    names: DimNames | None = None
    read: set[Value] = field(default_factory=set, compare=False)

    def layout(self, value: Value) -> Layout:
        """How an operand or result is ordered in memory."""
        return self.fused.layout(self.group.source(value))

    def nominal(self, dim: Dim) -> int:
        """The extent assumed for a dimension, its own where that is known, 1 at least."""
        return self.fused.options.nominal.of(dim)


@dataclass(frozen=True)
class Yes:
    """The template can compute the call."""


@dataclass(frozen=True)
class No:
    """The template can't, and why."""

    reason: str


Support = Yes | No


@dataclass(frozen=True)
class Packed:
    """A constant operand that a kernel reads in another order.

    Attributes:
        value: the constant as the model has it.
        packing: the order.
    """

    value: Value
    packing: Packing


@dataclass(frozen=True)
class Computed:
    """An operand that is computed from constants when a model is compiled.

    Attributes:
        values: the constants as the model has them.
        formula: what is computed.
    """

    values: tuple[Value, ...]
    formula: Formula


def packed_array(operand: Packed | Computed) -> Array:
    """The array that the kernel reads."""
    if isinstance(operand, Packed):
        return operand.packing(_array(operand.value))
    return operand.formula(*map(_array, operand.values))


def _array(value: Value) -> Array:
    array = known_array(value)
    assert array is not None
    return array


Operand: TypeAlias = "Value | Packed | Computed | Array"


@dataclass(frozen=True)
class Emitted:
    """A kernel: the function and its operands in parameter order.

    Attributes:
        inputs: values, constants to be packed, arrays to be computed of constants, and arrays that were made for this kernel. For
            a value that the group's prologue makes, the kernel gets what is converted.
        symbols: names of the dimensions that it takes after its tensors.
        scratch: TIR buffers that it takes behind its outputs, for values between its launches.
    """

    function: Any
    inputs: Sequence[Operand]
    symbols: Sequence[str] = ()
    scratch: Sequence[Any] = ()


class KernelTemplate(ABC, Generic[ConfigT]):
    """A family of kernels for one kind of anchor. ``Caps`` is all that it knows of the target.

    Attributes:
        name: by which plans and reports call it.
        anchors: operators that it computes.
        config_type: a frozen dataclass of numbers, truth values, strings and others of its kind: plans hold it as JSON.
        converts: whether ``supports`` looks at conversions before the anchor; other templates aren't asked about groups with any.
        reads_blocks: whether operands in channel blocks are welcome though the result is plain.
    """

    name: ClassVar[str]
    anchors: ClassVar[frozenset[str]]
    config_type: ClassVar[type[Any]]
    converts: ClassVar[bool] = False
    reads_blocks: ClassVar[bool] = False

    def is_for(self, call: KernelCall) -> bool:
        """Whether the call's anchor is of an operator that the template computes."""
        return not call.group.anchor.domain and call.group.anchor.op in self.anchors

    @abstractmethod
    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Whether the template can compute the call."""

    @abstractmethod
    def default(self, call: KernelCall, caps: Caps) -> ConfigT:
        """The analytic choice of configuration."""

    def space(self, call: KernelCall, caps: Caps) -> Iterable[ConfigT]:
        """What the template could do with the call: every configuration that it accepts for it, ``default``'s among them.

        A tuner tries these, and a plan may ask for any of them and for no other.
        """
        return [self.default(call, caps)]

    @abstractmethod
    def cost(self, call: KernelCall, config: ConfigT, caps: Caps) -> float:
        """Predicted seconds."""

    @abstractmethod
    def emit(self, call: KernelCall, config: ConfigT, caps: Caps, name: str) -> Emitted:
        """The kernel, with its constants packed for the configuration."""

    def takes(self, layout: Layout) -> bool:
        """Whether the template knows a layout at all; ``supports`` is asked about calls only whose layouts it knows."""
        return layout.is_plain or layout.channel_block > 0

    def wanted_layout(self, call: KernelCall, caps: Caps) -> Layout:
        """The layout that the template would like its data operand and result in."""
        return PLAIN


@dataclass(frozen=True)
class Candidate:
    """What a template has to say to a call.

    Attributes:
        template: the template.
        config: its configuration; None if it can't compute the call.
        seconds: predicted time; None if it can't.
        reason: why it can't.
    """

    template: KernelTemplate[Any]
    config: Any = None
    seconds: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        """``conv2d-direct 12.3 us`` or ``conv2d-winograd: why not``."""
        return (
            f"{self.template.name}: {self.reason}"
            if self.seconds is None
            else f"{self.template.name} {1e6 * self.seconds:.1f} us"
        )


def asked(template: KernelTemplate[Any], call: KernelCall, caps: Caps) -> Support:
    """Whether a template for the call's anchor can compute it, layouts that it doesn't know included."""
    for value in (*call.group.inputs, *call.group.outputs):
        if not template.takes(call.layout(value)):
            return No(f"%{value.name} is stored as {call.layout(value).name(len(value.shape))}")
    if call.group.prologue and not template.converts:
        return No("an operand that is converted while it is read")
    return template.supports(call, caps)


def weigh(templates: Sequence[KernelTemplate[Any]], call: KernelCall, caps: Caps) -> list[Candidate]:
    """The templates for the call's anchor: first those that can compute it, cheapest first, then the others."""
    found = []
    for template in templates:
        if not template.is_for(call):
            continue
        answer = asked(template, call, caps)
        if isinstance(answer, No):
            found.append(Candidate(template, reason=answer.reason))
            continue
        config = template.default(call, caps)
        found.append(Candidate(template, config, template.cost(call, config, caps)))
    return sorted(found, key=lambda c: float("inf") if c.seconds is None else c.seconds)

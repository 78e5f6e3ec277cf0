"""Labels: which token stands at which index of every axis of every tensor, found by one walk over the graph.

A constant has labels of its own at every use, so that a bias of zeros shared by two layers does not tie them together;
the surgery splits it when the two uses keep different channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from graphopt.ir.graph import Graph, Node, Use, Value
from graphopt.ir.types import TensorType
from graphopt.ops.registry import AFFINE, has_trait
from graphopt.passes.prune.balance import Balance
from graphopt.passes.prune.tokens import Labels, Tokens

Slot: TypeAlias = Value | Use
"""A tensor with labels: a value computed at run time, or a constant as one node uses it."""
AxisLabels: TypeAlias = list[Labels | None]
"""One entry an axis; None where the extent is symbolic, which also means that nothing of it is ever removed."""

ONE = "it is the only one of its axis"


class Role(Enum):
    """What an axis of a constant is to the layer that uses it."""

    OUT = "out"  # output channels of a layer: rows that produce
    IN = "in"  # summed over: columns that consume
    PARAMETER = "parameter"  # one number a channel: bias, scale, slope


@dataclass
class Labelling:
    """The result of the walk.

    Attributes:
        tokens: the equations.
        slots: labels of every tensor, by value or by use of a constant.
        roles: of the axes of layers' constants.
        layers: whose weights or parameters such constants are; integers belong to the layer behind their DequantizeLinear.
        balances: sets of channels that have to lose equally many in every group.
    """

    graph: Graph
    tokens: Tokens = field(default_factory=Tokens)
    slots: dict[Slot, AxisLabels] = field(default_factory=dict)
    roles: dict[tuple[Use, int], Role] = field(default_factory=dict)
    layers: dict[Use, Node] = field(default_factory=dict)
    balances: list[Balance] = field(default_factory=list)

    def of(self, slot: Slot) -> AxisLabels:
        """Labels of a slot. Constants get fresh ones when they are first asked for; what no rule has labelled stays."""
        if slot not in self.slots:
            if isinstance(slot, Value):
                return self.stay(slot, "no rule says what they are")
            self.slots[slot] = [self._fresh_axis(d) for d in shape_of(slot_value(slot)) or ()]
        return self.slots[slot]

    def stay(self, value: Value, reason: str) -> AxisLabels:
        """Labels of a value that no rule labels: nothing of it goes."""
        shape = shape_of(value) or ()
        self.slots[value] = [self.tokens.frozen(d, reason) if isinstance(d, int) else None for d in shape]
        return self.slots[value]

    def freeze_all(self, slot: Slot, reason: str) -> None:
        """Keep every axis of a tensor as it is."""
        for labels in self.of(slot):
            if labels is not None:
                self.tokens.freeze(labels, reason)

    def _fresh_axis(self, dim: object) -> Labels | None:
        if not isinstance(dim, int):
            return None
        return self.tokens.fresh(dim) if dim > 1 else self.tokens.frozen(dim, ONE)


class RuleContext:
    """What a rule sees of its node: labels of inputs, and where it puts those of outputs."""

    def __init__(self, labelling: Labelling, node: Node) -> None:
        self.labelling = labelling
        self.tokens = labelling.tokens
        self.node = node
        self._handed: set[int] = set()

    # -- inputs -------------------------------------------------------------------------------------------------
    def has(self, index: int) -> bool:
        """Whether input ``index`` is present."""
        return self.node.input(index) is not None

    def slot(self, index: int) -> Slot:
        """Where the labels of input ``index`` are kept."""
        value = self.node.input(index)
        assert value is not None
        return Use(self.node, index) if value.is_const else value

    def labels(self, index: int) -> AxisLabels:
        """Labels of input ``index``, one entry an axis."""
        self._handed.add(index)
        return self.labelling.of(self.slot(index))

    def shape(self, index: int) -> tuple[object, ...]:
        """Shape of input ``index``."""
        value = self.node.input(index)
        assert value is not None
        return shape_of(value) or ()

    def out_shape(self, index: int = 0) -> tuple[object, ...]:
        """Shape of output ``index``."""
        value = self.node.output(index)
        return () if value is None else shape_of(value) or ()

    # -- results ------------------------------------------------------------------------------------------------
    def set(self, labels: Sequence[Labels | None], output: int = 0) -> None:
        """Labels of an output. Symbolic axes must be None; None on a static axis means frozen."""
        value = self.node.output(output)
        if value is None:
            return
        shape = shape_of(value)
        assert shape is not None
        assert len(shape) == len(labels), (self.node.label, shape, len(labels))
        axes: AxisLabels = []
        for dim, axis in zip(shape, labels):
            if not isinstance(dim, int):
                self.freeze(axis, f"{self.node.label} gives it an extent that is not known when compiling")
                axes.append(None)
            elif axis is None:
                axes.append(self.frozen(dim))
            else:
                assert len(axis) == dim, (self.node.label, shape, len(axis))
                axes.append(axis)
        self.labelling.slots[value] = axes

    def role(self, index: int, axis: int, role: Role) -> None:
        """What an axis of input ``index`` is to the layer, if that input is a constant, or a dequantized one."""
        slot = stored(self.slot(index))
        if isinstance(slot, Use):
            self.labelling.of(slot)
            self.labelling.roles[slot, axis] = role
            self.labelling.layers[slot] = self.node

    # -- equations ----------------------------------------------------------------------------------------------
    def fresh(self, count: int) -> Labels:
        """Labels of a new axis that is free."""
        return self.tokens.fresh(count) if count > 1 else self.tokens.frozen(count, ONE)

    def frozen(self, count: int, reason: str | None = None) -> Labels:
        """Labels of a new axis that must stay whole."""
        return self.tokens.frozen(count, reason or f"{self.node.label} makes it anew")

    def freeze(self, labels: Labels | None, reason: str) -> None:
        """An axis that must stay whole from now on."""
        if labels is not None:
            self.tokens.freeze(labels, reason)

    def unify(self, a: Labels | None, b: Labels | None) -> None:
        """Two axes that lose the same indices; either may be symbolic (None)."""
        if a is None or b is None:
            for axis in (a, b):
                self.freeze(axis, f"{self.node.label} pairs it with an extent that is not known when compiling")
        else:
            self.tokens.unify(a, b)

    def tie(self, index: int, axis: int, labels: Labels | None) -> None:
        """An axis of input ``index`` loses the same indices as ``labels``.

        Like ``unify``, but a constant that has not been asked for yet takes the labels over, which saves the equations.
        """
        slot = self.slot(index)
        own = self.labelling.of(slot)
        if isinstance(slot, Use) and index not in self._handed and own[axis] is not None and labels is not None:
            assert len(labels) == self.shape(index)[axis], (self.node.label, index, axis)
            own[axis] = labels
        else:
            self.unify(labels, own[axis])

    def refuse(self, reason: str) -> None:
        """Freeze every axis of every input and output."""
        for index, value in enumerate(self.node.inputs):
            if value is not None:
                for axis in self.labels(index):
                    self.freeze(axis, reason)
        for index, out in enumerate(self.node.outputs):
            shape = None if out is None else shape_of(out)
            if shape is not None:
                self.set([self.frozen(d, reason) if isinstance(d, int) else None for d in shape], index)


def stored(slot: Slot) -> Slot:
    """Where the constant lies that a quantized weight comes from: before its DequantizeLinear, and before a QuantizeLinear
    that makes the integers of floats. The axes are the same. Other slots are what they are."""
    at = slot
    while isinstance(at, Value) and at.producer is not None and has_trait(at.producer, AFFINE):
        source = at.producer.inputs[0]
        if source is None or source.is_const:
            return slot if source is None else Use(at.producer, 0)
        at = source
    return slot


def slot_value(slot: Slot) -> Value:
    """The value of a slot."""
    if isinstance(slot, Value):
        return slot
    value = slot.node.input(slot.index)
    assert value is not None
    return value


def shape_of(value: Value) -> tuple[object, ...] | None:
    """Shape of a tensor of known rank, else None."""
    return value.type.shape if isinstance(value.type, TensorType) else None

"""Which slices of tensors are one known number, above all zero: a forward analysis, axis by axis.

For index ``i`` of an axis the analysis knows a number when *every* element with that index is that number, for all inputs of
the graph. It assumes that what is computed at run time is finite, so that 0 times it is 0, and takes -0 for 0. Everything
that it has no rule for is unknown.

Channels that are to be removed count as zero wherever they stand, which is how chains of dead channels are followed: a row
that goes no longer reads its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Array, Graph, Node, Use, Value
from graphopt.passes.prune.labels import Slot, shape_of, slot_value

Mask = npt.NDArray[np.bool_]
Keep: TypeAlias = Callable[[Slot], Sequence[Mask | None]]
"""What stays of every axis of a tensor; [] or None for all of it."""

_CHUNK = 64
"""Slices of a constant that are looked at together."""


@dataclass(frozen=True)
class Known:
    """What is known along one axis.

    Attributes:
        mask: bool [extent]: where a number is known.
        value: [extent], of the tensor's dtype: the number; meaningless elsewhere.
    """

    mask: Mask
    value: Array

    @property
    def zero(self) -> Mask:
        """Bool [extent]: where the number is zero."""
        return np.asarray(self.mask & (self.value == 0), bool)

    def only_zero(self) -> Known | None:
        """What is left when numbers other than zero are forgotten."""
        return Known.zeros(self.zero, self.value.dtype)

    @staticmethod
    def zeros(mask: Mask, dtype: npt.DTypeLike) -> Known | None:
        """Zero where the mask is set; None where that is nowhere."""
        return Known(mask, np.zeros(mask.shape, dtype)) if mask.any() else None


Facts: TypeAlias = list[Known | None]
"""One entry an axis."""
FactRule: TypeAlias = "Callable[[Zeros, Node, int], Facts]"
"""What is known along every axis of output ``index``; [] for nothing."""


class Zeros:
    """The analysis of one graph.

    Args:
        graph: not changed; its subgraphs are not looked into.
        rule_of: what the analysis knows of an operator; None where that is nothing.
        keep: what is left of every tensor; all of it by default.
    """

    def __init__(self, graph: Graph, rule_of: Callable[[Node], FactRule | None], keep: Keep = lambda slot: ()) -> None:
        self.graph = graph
        self.keep = keep
        self._facts: dict[Value, Facts] = {}
        self._constants: dict[tuple[Use, int], Known | None] = {}
        self._silent: dict[tuple[Use, int], Mask] = {}
        self.unread: dict[tuple[Use, int], Mask] = {}  # kept here for ``readers``
        for node in graph.nodes:
            rule = rule_of(node)
            known = shape_of(node.out) is not None if node.outputs and node.outputs[0] is not None else False
            for index, out in enumerate(node.outputs):
                if out is None or not shape_of(out):
                    continue
                facts = rule(self, node, index) if rule is not None and known and _tracked(out) else []
                self._store(out, facts)

    # -- results ------------------------------------------------------------------------------------------------
    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of any value computed at run time."""
        return not self._facts

    def known(self, slot: Slot, axis: int) -> Known | None:
        """What is known along an axis of a value, or of a constant as one node uses it."""
        if isinstance(slot, Use):
            if (slot, axis) not in self._constants:
                self._constants[slot, axis] = self._constant(slot, axis)
            return self._constants[slot, axis]
        facts = self._facts.get(slot)
        return None if facts is None else facts[axis]

    def zero(self, slot: Slot, axis: int) -> Mask:
        """Bool [extent]: where a static axis is zero."""
        known = self.known(slot, axis)
        if known is not None:
            return known.zero
        extent = slot_value(slot).shape[axis]
        assert isinstance(extent, int)
        return np.zeros(extent, bool)

    def zero_slot(self, slot: Slot, axis: int) -> Mask:
        """The same for constants too, by their weights alone."""
        if isinstance(slot, Value):
            return self.zero(slot, axis)
        if (slot, axis) not in self._silent:
            self._silent[slot, axis] = self.zero_along(slot, axis, {})
        return self._silent[slot, axis]

    def any_known(self, node: Node) -> bool:
        """Whether anything is known of an operand that is computed at run time."""
        return any(v in self._facts for v in node.inputs if v is not None and not v.is_const)

    def whole(self, slot: Slot) -> Array | None:
        """The number that fills a whole tensor, as an array without axes."""
        value = slot_value(slot)
        if value.data is not None:
            return value.data.reshape(()) if value.data.size == 1 else None
        for axis, known in enumerate(self._facts.get(value, [])):
            if known is not None and value.shape[axis] == 1 and known.mask[0]:
                return known.value.reshape(())
        return None

    # -- constants ----------------------------------------------------------------------------------------------
    def zero_along(self, use: Use, axis: int, live: Mapping[int, Mask]) -> Mask:
        """Where a constant is zero along an axis, looking only at what is left, and at ``live`` indices of other axes.

        Returns:
            Bool [extent]; what is gone counts as zero.
        """
        data = slot_value(use).data
        assert data is not None
        masks: list[Mask | None] = list(self.keep(use)) or [None] * data.ndim
        for other, mask in live.items():
            mine = masks[other]
            masks[other] = mask if mine is None else mine & mask
        own, masks[axis] = masks[axis], None
        found = np.ones(data.shape[axis], bool)
        if all(m is None or m.any() for m in masks):
            found = _uniform(data, axis, masks, own, zero=True)
        return found if own is None else found | ~own

    def _constant(self, use: Use, axis: int) -> Known | None:
        data = slot_value(use).data
        assert data is not None
        if not data.size or not _numeric(data):
            return None
        masks: list[Mask | None] = list(self.keep(use)) or [None] * data.ndim
        own, masks[axis] = masks[axis], None
        if any(m is not None and not m.any() for m in masks):
            return None
        mask = _uniform(data, axis, masks, own)
        value = data[tuple(slice(None) if i == axis else _first(m) for i, m in enumerate(masks))]
        if own is not None:
            mask, value = mask | ~own, np.where(own, value, np.zeros((), value.dtype))
        return Known(mask, value) if mask.any() else None

    def _store(self, value: Value, facts: Facts) -> None:
        for axis, mask in enumerate(self.keep(value)):
            if mask is not None and not mask.all():
                facts = facts or [None] * len(value.shape)
                known = facts[axis] or Known(np.zeros(len(mask), bool), np.zeros(len(mask), value.dtype.numpy))
                number = np.where(mask, known.value, np.zeros((), known.value.dtype))
                facts[axis] = Known(known.mask | ~mask, number)
        if any(k is not None and k.mask.any() for k in facts):
            self._facts[value] = [k if k is not None and k.mask.any() else None for k in facts]


def operand(node: Node, index: int) -> Slot:
    """Where facts of input ``index`` are kept."""
    value = node.input(index)
    assert value is not None
    return Use(node, index) if value.is_const else value


def or_none(mask: Mask, value: Array) -> Known | None:
    """Numbers where the mask is set; None where that is nowhere."""
    return Known(mask, value) if mask.any() else None


def _tracked(value: Value) -> bool:
    return all(d != 0 for d in value.shape)


def _numeric(data: Array) -> bool:
    return data.dtype.kind in "fiub" or data.dtype.name == "bfloat16"


def _first(mask: Mask | None) -> int:
    return 0 if mask is None else int(mask.argmax())


def _last(mask: Mask | None) -> int:
    return -1 if mask is None else len(mask) - 1 - int(mask[::-1].argmax())


def _uniform(data: Array, axis: int, masks: Sequence[Mask | None], own: Mask | None, *, zero: bool = False) -> Mask:
    """Along an axis: where all elements are equal (or all zero), looking at ``masks`` of the other axes.

    Two elements of each slice rule nearly all slices of a dense tensor out, without reading the rest of it.
    """
    ends = [data[tuple(slice(None) if i == axis else pick(m) for i, m in enumerate(masks))] for pick in (_first, _last)]
    found = (ends[0] == 0) & (ends[1] == 0) if zero else ends[0] == ends[1]
    if own is not None:
        found = found & own
    if data.size == data.shape[axis]:
        return np.asarray(found, bool)
    candidates = np.flatnonzero(found)
    others = tuple(i for i in range(data.ndim) if i != axis)
    for start in range(0, len(candidates), _CHUNK):
        chunk = candidates[start : start + _CHUNK]
        part = np.take(data, chunk, axis)
        for i in others:
            mask = masks[i]
            if mask is not None and not mask.all():
                part = np.compress(mask, part, i)
        want = ends[0][chunk].reshape([-1 if i == axis else 1 for i in range(data.ndim)])
        found[chunk] = (part == want).all(axis=others)
    return np.asarray(found, bool)

"""The table of pruning rules, by operator of ai.onnx.

A *labelling* rule relates the labels of a node's operands and results. What it may let through is what keeps this true:
running the node on operands without some channels gives the same as running it on operands where these channels are zero
and then leaving the channels out. An *adjusting* rule brings attributes and shape operands in line once channels are gone.
Operators without a rule keep everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Node
from graphopt.passes.prune.labels import RuleContext

Mask = npt.NDArray[np.bool_]
LabelRule = Callable[[RuleContext], None]
Rule = TypeVar("Rule", bound=LabelRule)


class CannotFollow(Exception):
    """Raised by an adjusting rule: the node has no form that fits what is left; the text says why."""


@dataclass
class AdjustContext:
    """A node of the copy whose channels are going, while its attributes still are those of the whole.

    Attributes:
        node: in the graph being changed.
        inputs: per input, per axis: which indices stay; None for symbolic axes. Empty for absent inputs.
        outputs: the same for outputs.
        editor: of the graph being changed.
        stale: inputs computed from extents that change.
    """

    node: Node
    inputs: list[list[Mask | None]]
    outputs: list[list[Mask | None]]
    editor: Editor
    stale: frozenset[int] = frozenset()

    @property
    def lost(self) -> bool:
        """Whether anything of the node's operands or results goes."""
        return any(mask is not None and not mask.all() for axes in (*self.inputs, *self.outputs) for mask in axes)

    def kept(self, index: int, axis: int) -> int:
        """How many indices of an input's static axis stay."""
        mask = self.inputs[index][axis]
        assert mask is not None
        return int(mask.sum())

    def replace_operand(self, index: int, array: Array) -> None:
        """Give input ``index`` a constant instead of what it has, under the same name where nobody else uses it; what
        computed it dies if nobody else needs it."""
        old = self.node.input(index)
        if old is not None and old.is_const and old.only_use is not None:
            self.editor.set_constant(old, array)
            return
        hint = old.name if old is not None else f"{self.node.name}_operand"
        self.editor.set_input(self.node, index, self.editor.constant(array, hint))
        if old is not None and not old.is_const:
            self.editor.erase_dead([old])

    def renumber(self, index: int, numbers: Sequence[int | None]) -> None:
        """Write numbers into a vector of integers, which keeps what it has where there is None."""
        old = self.node.input(index)
        assert old is not None
        known = np.asarray([n is not None for n in numbers], bool)
        values = np.asarray([0 if n is None else n for n in numbers], old.dtype.numpy)
        if known.all():
            self.replace_operand(index, values)
        elif old.data is not None:
            self.replace_operand(index, np.where(known, values, old.data))
        else:
            name = f"{self.node.name}_extents"
            operands = [self.editor.constant(known, f"{name}_known"), self.editor.constant(values, f"{name}_left"), old]
            chosen = self.editor.node("Where", operands, name=name, before=self.node)
            self.editor.set_input(self.node, index, chosen.out)


AdjustRule = Callable[[AdjustContext], None]

_LABEL_RULES: dict[str, LabelRule] = {}
_ADJUST_RULES: dict[str, AdjustRule] = {}


def labels_of(*ops: str) -> Callable[[Rule], Rule]:
    """Decorator: the labelling rule of the named operators."""

    def add(rule: Rule) -> Rule:
        for op in ops:
            _LABEL_RULES[op] = rule
        return rule

    return add


def adjusts(*ops: str) -> Callable[[AdjustRule], AdjustRule]:
    """Decorator: the adjusting rule of the named operators."""

    def add(rule: AdjustRule) -> AdjustRule:
        for op in ops:
            _ADJUST_RULES[op] = rule
        return rule

    return add


def label_rule(node: Node) -> LabelRule | None:
    """The labelling rule of a node's operator, None if there is none."""
    return None if node.domain else _LABEL_RULES.get(node.op)


def adjust_rule(node: Node) -> AdjustRule | None:
    """The adjusting rule of a node's operator, None if the node needs no change of its own."""
    return None if node.domain else _ADJUST_RULES.get(node.op)

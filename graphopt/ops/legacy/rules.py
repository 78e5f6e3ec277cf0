"""The table of upgrade rules and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.errors import UnsupportedOpError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import Shape
from graphopt.ops.context import InferContext

UpgradeRule = Callable[[Node, Editor], bool]
"""Rewrites a node; returns whether the node itself is still in the graph."""

_RULES: dict[str, list[tuple[int, UpgradeRule]]] = {}
ALWAYS = 1 << 30


def before(version: int, *ops: str) -> Callable[[UpgradeRule], UpgradeRule]:
    """Decorator: the rule applies to these operators in models of an opset below ``version``."""

    def add(rule: UpgradeRule) -> UpgradeRule:
        for op in ops:
            _RULES.setdefault(op, []).append((version, rule))
            _RULES[op].sort(key=lambda entry: entry[0])
        return rule

    return add


def rules_for(op: str, opset: int) -> list[UpgradeRule]:
    """The rules to apply, oldest first."""
    return [rule for version, rule in _RULES.get(op, ()) if opset < version]


def boundaries(op: str) -> set[int]:
    """Versions at which a rule says that the operator's form changed."""
    return {version for version, _ in _RULES.get(op, ())}


def take_ints(node: Node, editor: Editor, name: str) -> list[int] | None:
    """Remove an attribute and return it as a list of integers, None when absent."""
    found = node.attrs.get(name)
    if found is None:
        return None
    editor.set_attr(node, name, None)
    return [int(v) for v in (found if isinstance(found, (list, tuple, np.ndarray)) else [found])]


def i64(editor: Editor, values: Sequence[int], name: str) -> Value:
    """A constant 1-D int64 tensor."""
    return editor.constant(np.asarray(values, np.int64).reshape(-1), name)


def refuse(node: Node, why: str, hint: str) -> UnsupportedOpError:
    """The error for an old form without an equivalent."""
    return UnsupportedOpError(why, code="unsupported-legacy-op", node=node.label, hint=hint)


def shape_of(node: Node, index: int) -> Shape:
    """Shape of an operand of known rank.

    Raises:
        UnsupportedOpError: its rank is not known, or it is no tensor.
    """
    assert node.graph is not None
    return InferContext(node, node.graph).shape(index)


def dtype_of(node: Node, index: int) -> DType:
    """Element type of an operand.

    Raises:
        UnsupportedOpError: it is no tensor.
    """
    assert node.graph is not None
    return InferContext(node, node.graph).dtype(index)


def replace_outputs(node: Node, new: Sequence[Value | None], editor: Editor) -> bool:
    """Reroute the outputs of ``node`` to ``new``, erase it, and report that it is gone."""
    for old, value in zip(node.outputs, new):
        if old is None or value is None:
            continue
        if not editor.can_take_name(old, value):
            value = editor.node("Identity", [value], before=node, like=[node]).out
        editor.replace(old, value)
    editor.erase(node)
    return False

"""The table of operators that are brought to plain ones at import, and the decorator that fills it.

What they mean is taken from ONNX Runtime's definitions (``onnxruntime/core/graph/contrib_ops`` in its repository, and its
``docs/ContribOperators.md``); ``tests/ops/contrib`` compares every rule with what ONNX Runtime computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.ir.graph import Value

if TYPE_CHECKING:
    from graphopt.ops.contrib.builder import Builder

MICROSOFT = "com.microsoft"

Rule = Callable[["Builder"], "Sequence[Value | None] | None"]
"""Emits plain nodes and returns a value for each output of the node; None leaves the node as it is."""


@dataclass(frozen=True)
class Entry:
    """What an operator may look like, and what it becomes.

    Attributes:
        operands: their names in order; ``?`` marks one that may be left out, ``*`` a last one that stands for any number.
        attributes: those that the rule honours; any other one is refused.
        outputs: how many results there are.
    """

    rule: Rule
    operands: tuple[str, ...]
    attributes: frozenset[str]
    outputs: int

    def position(self, name: str) -> int:
        """Where an operand stands."""
        return [o.rstrip("?*") for o in self.operands].index(name)


_TABLE: dict[tuple[str, str], Entry] = {}


def becomes_plain(
    *ops: str, operands: str, attributes: str = "", outputs: int = 1, domain: str = MICROSOFT
) -> Callable[[Rule], Rule]:
    """Decorator: the rule brings the named operators of a domain to operators of ai.onnx.

    Args:
        operands: names as ``Entry`` has them, separated by spaces.
        attributes: names, separated by spaces.
    """

    def add(rule: Rule) -> Rule:
        for op in ops:
            _TABLE[domain, op] = Entry(rule, tuple(operands.split()), frozenset(attributes.split()), outputs)
        return rule

    return add


def entry_of(domain: str, op: str) -> Entry | None:
    """The entry of an operator, None if nothing is known of it here."""
    return _TABLE.get((domain, op))


def known_operators(domain: str = MICROSOFT) -> list[str]:
    """The operators of a domain that have an entry so far, sorted; ``graphopt.ops.contrib.lowering`` has them all."""
    return sorted(op for of, op in _TABLE if of == domain)

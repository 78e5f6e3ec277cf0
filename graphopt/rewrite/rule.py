"""Rule: one equation, with the conditions under which it holds."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from graphopt.errors import InternalError
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Node, Value
from graphopt.rewrite.passes import PassContext
from graphopt.rewrite.pattern import Bindings, NoMatch, OpPattern, Pattern


class Match:
    """What the patterns of a rule are bound to.

    Attributes:
        root: the node at which the rule's ``root`` pattern matched.
        nodes: the matched nodes, in graph order of their outputs towards the root.
        ctx: the running pass's context.
    """

    def __init__(self, root: Node, values: Bindings, nodes: dict[OpPattern, Node], ctx: PassContext) -> None:
        self.root = root
        self._values = values
        self._nodes = nodes
        self.ctx = ctx

    def __getitem__(self, pattern: Pattern) -> Value:
        value = self._values[pattern]
        if value is None:
            raise InternalError(f"operand {pattern!r} is absent; use get()")
        return value

    def get(self, pattern: Pattern) -> Value | None:
        """The bound value, None for an optional operand left out."""
        return self._values.get(pattern)

    def node(self, pattern: OpPattern) -> Node:
        """The node bound to an operator pattern."""
        return self._nodes[pattern]

    def array(self, pattern: Pattern) -> Array:
        """The array of a constant."""
        data = self[pattern].data
        if data is None:
            raise InternalError(f"operand {pattern!r} is not constant")
        return data

    @property
    def nodes(self) -> list[Node]:
        """Matched nodes that will be gone, root last."""
        gone = [n for p, n in self._nodes.items() if not p.shared and n is not self.root]
        return [*dict.fromkeys(gone), self.root]

    def require(self, condition: bool, reason: str, at: Value | Node | None = None) -> None:
        """Refuse unless ``condition``.

        Raises:
            NoMatch: the condition is false.
        """
        if not condition:
            raise NoMatch(reason, at)

    def require_forward(self, source: Value) -> None:
        """Refuse unless the root's output may simply become ``source``, types and names of graph outputs included."""
        out = self.root.out
        self.require(source.type == out.type, "the types differ", source)
        self.require(Editor.can_take_name(out, source), "a graph output must keep its own name", out)


class Rule(ABC):
    """Rewrites the matches of ``root``. The subclass's docstring is the equation.

    Patterns are class attributes; ``m[self.x]`` is the value bound to pattern ``x``.
    """

    root: ClassVar[OpPattern]

    @property
    def name(self) -> str:
        """Kebab-case of the class name."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", type(self).__name__).lower()

    def check(self, m: Match) -> None:  # noqa: B027  (no condition is a valid choice)
        """Raise ``NoMatch(reason, at=value)`` where the equation does not hold. Must not change the graph."""

    @abstractmethod
    def rewrite(self, m: Match, e: Editor) -> Value | Sequence[Value]:
        """Build the replacement of the root's outputs. ``e`` inserts before the root and passes origins on."""

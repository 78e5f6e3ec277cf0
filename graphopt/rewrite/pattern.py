"""Declarative patterns over the graph: what to look for, written as the expression it is.

Matching goes from a root node up through its operands. It has two steps: *structure* (operators, operands, constants)
finds candidates, then the *closed world* is checked: an attribute that the pattern does not name must equal the default
of its schema, outputs that it does not name must be unused, and values between the matched nodes may be used by these
nodes only and not leave the graph. A candidate that fails the second step is a refusal worth a remark; a mere
structural mismatch is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import attr
from graphopt.ops.registry import COMMUTATIVE, op_has_trait

ANY_ATTRS = frozenset({"*"})
"""``keep=ANY_ATTRS``: the rule handles every attribute the operator has."""


class NoMatch(Exception):
    """A rule's reason not to fire. ``at`` is the value or node that the reason is about."""

    def __init__(self, reason: str, at: Value | Node | None = None) -> None:
        self.reason = reason
        self.at = at
        super().__init__(reason)

    def __str__(self) -> str:
        if isinstance(self.at, Value):
            return f"{self.reason} (at %{self.at.name}: {self.at.type})"
        return f"{self.reason} (at {self.at.label})" if isinstance(self.at, Node) else self.reason


class Pattern:
    """Base of patterns. Patterns compare by identity: using one twice demands the same value twice."""

    name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def __repr__(self) -> str:
        return self.name or type(self).__name__


class Leaf(Pattern):
    """An operand that the rule takes as it is."""

    def __init__(
        self, *, constant: bool = False, optional: bool = False, test: Callable[[Array], bool] | None = None
    ) -> None:
        self.constant = constant
        self.optional = optional
        self.test = test

    def accepts(self, value: Value) -> bool:
        """Whether the value is of the kind asked for."""
        if not self.constant:
            return True
        if value.data is None:
            return False
        return self.test is None or self.test(value.data)


class OpPattern(Pattern):
    """The first output of a node with one of the given operators."""

    def __init__(
        self,
        ops: frozenset[str],
        inputs: Sequence[Pattern],
        keep: frozenset[str],
        require: Mapping[str, Any],
        shared: bool,
        variadic: bool,
    ) -> None:
        self.ops = ops
        self.inputs = tuple(inputs)
        self.keep = keep
        self.require = dict(require)
        self.shared = shared
        self.variadic = variadic

    @property
    def commutes(self) -> bool:
        """Whether two operands may also be matched in the other order."""
        return len(self.inputs) == 2 and all(op_has_trait(o, COMMUTATIVE) for o in self.ops)


class Either(Pattern):
    """One of several patterns."""

    def __init__(self, options: Sequence[Pattern]) -> None:
        self.options = tuple(options)


def any_() -> Leaf:
    """Any value."""
    return Leaf()


def opt_any() -> Leaf:
    """Any value, or an operand left out."""
    return Leaf(optional=True)


def const(test: Callable[[Array], bool] | None = None) -> Leaf:
    """A constant, whose array passes ``test`` if one is given: a part of the structure, so failing it is no refusal."""
    return Leaf(constant=True, test=test)


def opt_const() -> Leaf:
    """A constant, or an operand left out."""
    return Leaf(constant=True, optional=True)


def scalar(equals: float) -> Leaf:
    """A constant all of whose elements are ``equals`` (within the rounding of its own dtype)."""
    return Leaf(constant=True, test=lambda array: is_splat(array, equals))


def either(*options: Pattern) -> Either:
    """Whichever of the patterns matches; all that do are tried, in order."""
    return Either(options)


def op(
    ops: str | Collection[str],
    *inputs: Pattern,
    keep: Collection[str] = (),
    require: Mapping[str, Any] | None = None,
    shared: bool = False,
    variadic: bool = False,
) -> OpPattern:
    """A node of ai.onnx.

    Args:
        ops: operator name or names.
        inputs: patterns of its operands in order. Those of commutative operators match in both orders.
        keep: attributes that the rule takes care of. All others must equal the schema's default.
        require: attributes that must have the given value.
        shared: the node stays, so that others may use its result too.
        variadic: further operands may follow.
    """
    names = frozenset([ops] if isinstance(ops, str) else ops)
    return OpPattern(names, inputs, frozenset(keep), require or {}, shared, variadic)


Bindings = dict[Pattern, "Value | None"]


def candidates(pattern: OpPattern, root: Node) -> Iterator[tuple[Bindings, dict[OpPattern, Node]]]:
    """Structural matches with ``root`` as the pattern's node."""
    for state in _match_node(pattern, root, root, {}, {}):
        values, nodes = state
        yield {**values, pattern: root.output(0)}, nodes


State = tuple[Bindings, dict[OpPattern, Node]]


def _match_node(
    pattern: OpPattern, node: Node, root: Node, values: Bindings, nodes: dict[OpPattern, Node]
) -> Iterator[State]:
    if node.domain or node.op not in pattern.ops or node.graph is not root.graph:
        return
    extra = node.inputs[len(pattern.inputs) :]
    if any(v is not None for v in extra) and not pattern.variadic:
        return
    operands = [node.input(i) for i in range(len(pattern.inputs))]
    orders = [operands, operands[::-1]] if pattern.commutes and operands[0] is not operands[1] else [operands]
    for order in orders:
        yield from _match_operands(list(zip(pattern.inputs, order)), root, values, {**nodes, pattern: node})


def _match_operands(
    pairs: list[tuple[Pattern, Value | None]], root: Node, values: Bindings, nodes: dict[OpPattern, Node]
) -> Iterator[State]:
    if not pairs:
        yield values, nodes
        return
    (pattern, value), rest = pairs[0], pairs[1:]
    for v, n in _match_value(pattern, value, root, values, nodes):
        yield from _match_operands(rest, root, v, n)


def _match_value(
    pattern: Pattern, value: Value | None, root: Node, values: Bindings, nodes: dict[OpPattern, Node]
) -> Iterator[State]:
    if pattern in values:
        if values[pattern] is value:
            yield values, nodes
        return
    bound = {**values, pattern: value}
    if isinstance(pattern, Either):
        for option in pattern.options:
            yield from _match_value(option, value, root, bound, nodes)
    elif isinstance(pattern, Leaf):
        if (value is None and pattern.optional) or (value is not None and pattern.accepts(value)):
            yield bound, nodes
    elif isinstance(pattern, OpPattern) and value is not None and value.producer is not None:
        producer = value.producer
        yield from _match_node(pattern, producer, root, bound, nodes) if producer.output(0) is value else ()


def check_closed_world(pattern: OpPattern, root: Node, nodes: Mapping[OpPattern, Node]) -> None:
    """Refuse what the pattern does not account for.

    Raises:
        NoMatch: an attribute, an output or another user of an inner value would be lost.
    """
    erased = {id(n) for p, n in nodes.items() if not p.shared}
    for p, node in nodes.items():
        _check_attributes(p, node)
        if p.shared:
            continue
        for extra in node.outputs[1:]:
            if extra is not None and (extra.uses or extra.escapes):
                raise NoMatch(f"output %{extra.name} of {node.op} is used as well", node)
        if node is root:
            continue
        value = node.out
        if value.escapes:
            raise NoMatch("the value between the matched nodes is a graph output", value)
        if any(id(u.node) not in erased for u in value.uses):
            raise NoMatch("the value between the matched nodes has other uses", value)


def _check_attributes(pattern: OpPattern, node: Node) -> None:
    for name, wanted in pattern.require.items():
        if not _same(attr(node, name), wanted):
            raise NoMatch(f"attribute {name} is {attr(node, name)}, not {wanted}", node)
    if pattern.keep is ANY_ATTRS or "*" in pattern.keep:
        return
    for name, have in node.attrs.items():
        if name in pattern.keep or name in pattern.require:
            continue
        default = attr(_bare(node), name)
        if not _same(have, default):
            raise NoMatch(f"attribute {name}={have} of {node.op} is not covered", node)


def _bare(node: Node) -> Node:
    return Node(node.op, [], [], {}, node.name, node.domain)


def _same(have: Any, wanted: Any) -> bool:
    if isinstance(have, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return list(have) == list(wanted)
    if isinstance(have, float) and isinstance(wanted, (float, int)):
        return bool(np.float32(have) == np.float32(wanted))
    return bool(np.all(have == wanted)) if isinstance(have, np.ndarray) else bool(have == wanted)


def is_splat(array: Array, number: float) -> bool:
    """Whether the array is not empty and every element is ``number`` up to two units of the array's dtype."""
    if array.size == 0 or array.dtype.kind in "OUS" or array.dtype.kind == "c":
        return False
    if array.dtype.kind in "iub":
        return bool(np.all(array == number))
    wide = array.astype(np.float64)
    eps = {2: 2.0**-10, 4: 2.0**-23, 8: 2.0**-50}.get(array.dtype.itemsize, 2.0**-3)
    return bool(np.all(np.abs(wide - number) <= 2 * eps * abs(number)))

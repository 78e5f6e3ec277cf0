"""Which nodes compute on integers, and which values are therefore stored in them.

Products are what quantization is for; everything else joins them only where integers would otherwise be left and entered again.
What reads no integers, and the outputs of the graph, read the float value, which costs nothing and rounds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.registry import COMMUTATIVE, CONVOLUTION, MATRIX_PRODUCT, has_trait
from graphopt.passes.quant.bodies import Bodies
from graphopt.passes.quant.roles import Role, data_operands, is_float32, role_of
from graphopt.passes.quant.runtimes import ANY, Runtime

Kind = Literal["asked", "accuracy", "rule"]


@dataclass(frozen=True)
class Left:
    """Why a node that could compute on integers stays in float.

    Attributes:
        kind: ``asked`` for by the user, ``accuracy``: what it does to the outputs, ``rule``: what lies around it.
        reason: in words.
    """

    kind: Kind
    reason: str


@dataclass
class Placement:
    """What is quantized.

    Attributes:
        graph: to quantize.
        roles: nodes that compute on integers, with their parts.
        left: those that have a part and stay in float.
        groups: values that are stored in integers; those of one group with the same scale and zero point.
        weights: positions of the constant operands of products.
        runtime: whose rules are followed.
        results: values that are stored for the runtime's sake: all that read them read integers.
    """

    graph: Graph
    roles: dict[Node, Role] = field(default_factory=dict)
    left: dict[Node, Left] = field(default_factory=dict)
    groups: list[list[Value]] = field(default_factory=list)
    weights: dict[Node, int] = field(default_factory=dict)
    runtime: Runtime = ANY
    results: list[Value] = field(default_factory=list)

    def operands(self, node: Node) -> list[tuple[int, Value]]:
        """Positions and values of the operands that a node reads in integers, weights of products aside."""
        role = self.roles.get(node)
        if role is None:
            return []
        found = [(i, v) for i in data_operands(node, role) if i != self.weights.get(node) and (v := node.input(i))]
        if any(self.in_registers(v) for _, v in found):
            return []
        added = self._added_in_registers(node, [v for _, v in found])
        return [(i, v) for i, v in found if is_float32(v) and v is not added]

    def _added_in_registers(self, node: Node, operands: list[Value]) -> Value | None:
        """The operand of a sum that its convolution adds up with the others, where the runtime does that: the last one computed."""
        if not self.runtime.adds_in_registers or node.op != "Add" or len(set(operands)) < 2:
            return None
        found: dict[Value, Node] = {}
        for value in operands:
            maker = value.producer
            if (
                value.only_use is not None
                and maker is not None
                and maker.graph is node.graph
                and self._is_convolution(maker)
            ):
                found[value] = maker
        graph = node.graph
        assert graph is not None
        return max(found, key=lambda value: graph.position(found[value]), default=None)

    def _is_convolution(self, node: Node | None) -> bool:
        return node is not None and self.roles.get(node) is Role.PRODUCT and has_trait(node, CONVOLUTION)

    def in_registers(self, value: Value) -> bool:
        """Whether a value goes from the node that computes it to a clamp, or to where a constant is added or multiplied, and
        nowhere else: it is one computation with what follows, and only the result is stored."""
        use, maker = value.only_use, value.producer
        if use is None or maker is None or self.roles.get(maker) not in (Role.PRODUCT, Role.COMPUTES):
            return False
        role = self.roles.get(use.node)
        return (role is Role.CLAMPS and use.index == 0) or (role is Role.COMPUTES and _with_constant(use.node))


def place(
    graph: Graph, asked: Mapping[Node, Left] | None = None, runtime: Runtime = ANY, *, in_bodies: bool = True
) -> Placement:
    """Decide on every node, those in branches and loops too if data can show what they read.

    Args:
        graph: the outermost one.
        asked: nodes that stay in float whatever the rules say.
        runtime: whose rules are followed.
        in_bodies: whether any node of a branch or loop is quantized.
    """
    placement, bodies = Placement(graph, runtime=runtime), Bodies(graph)
    for node in graph.walk():
        role = role_of(node)
        if role is None:
            continue
        why = (asked or {}).get(node) or _left_alone(node, role)
        if why is None and node.graph is not graph:
            why = (
                _unseen(node, role, bodies, runtime)
                if in_bodies
                else Left("rule", "what a branch or loop costs isn't measured")
            )
        if why is None:
            placement.roles[node] = role
        else:
            placement.left[node] = why
    _settle(placement)
    for node, role in placement.roles.items():
        weight = _weight(node) if role is Role.PRODUCT else None
        if weight is not None:
            placement.weights[node] = weight
    if runtime.stores_results:
        placement.results = _results(placement)
    placement.groups = _groups(placement)
    return placement


def _results(placement: Placement) -> list[Value]:
    """What convolutions give, once it was clamped where they do that."""
    found: dict[Value, None] = {}
    for node, role in placement.roles.items():
        if role is Role.PRODUCT and has_trait(node, CONVOLUTION):
            value = node.out
            while placement.in_registers(value) and value.only_use is not None:
                value = value.only_use.node.out
            found[value] = None
    return list(found)


def _left_alone(node: Node, role: Role) -> Left | None:
    """What speaks against a node whatever is around it."""
    if any(v is not None and v.producer is not None and v.producer.op == "DequantizeLinear" for v in node.inputs):
        return Left("rule", "it is quantized already")
    if role is Role.PRODUCT and all(v is None or v.is_const for v in node.inputs):
        return Left("rule", "it multiplies constants")
    return None


def _unseen(node: Node, role: Role, bodies: Bodies, runtime: Runtime) -> Left | None:
    """What speaks against a node of a branch or loop: values that no data shows, which it reads or, if
    its results may be stored for its sake, gives."""
    stores = role is not Role.PRODUCT or runtime.stores_results
    values = [node.input(i) for i in data_operands(node, role)] + (node.outputs if stores else [])
    reasons = (bodies.hidden(v) for v in values if v is not None and not v.is_const and is_float32(v))
    return next((Left("rule", reason) for reason in reasons if reason is not None), None)


def _with_constant(node: Node) -> bool:
    """Whether a constant is added or multiplied: the bias of a MatMul, the scale of what was normalised."""
    return has_trait(node, COMMUTATIVE) and any(v is not None and v.is_const for v in node.inputs)


def _weight(node: Node) -> int | None:
    """Position of a product's constant operand, which may be scaled by output channel."""
    positions = (1, 0) if has_trait(node, MATRIX_PRODUCT) else (1,)
    return next((i for i in positions if (v := node.input(i)) is not None and v.is_const), None)


def _settle(placement: Placement) -> None:
    """Take out, again and again, what gains nothing from integers because of what is left around it."""
    changed = True
    while changed:
        changed = False
        for node, role in list(placement.roles.items()):
            why = None if role is Role.PRODUCT else _no_gain(placement, node, role)
            if why is not None:
                del placement.roles[node]
                placement.left[node] = Left("rule", why)
                changed = True


def _no_gain(placement: Placement, node: Node, role: Role) -> str | None:
    if not any(_reads(placement, reader, v) for v in node.outputs if v is not None for reader in v.consumers):
        return "nothing that computes on integers reads its result"
    if role is Role.CLAMPS and (v := node.input(0)) is not None and not _from_integers(placement, v):
        return "what it reads is computed in float, where it costs nothing"
    if role is Role.COMPUTES:
        operands = [node.input(i) for i in data_operands(node, role)]
        if not all(v is not None and (v.is_const or _from_integers(placement, v)) for v in operands):
            return "not all that it reads is computed on integers"
        if all(v is not None and v.is_const for v in operands):
            return "it reads constants only"
    return None


def _reads(placement: Placement, reader: Node, value: Value) -> bool:
    role = placement.roles.get(reader)
    return role is not None and any(reader.input(i) is value for i in data_operands(reader, role))


def _from_integers(placement: Placement, value: Value) -> bool:
    """Whether a value is what a product or another computation on integers gives, moved or clamped on its way perhaps."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        v = stack.pop()
        if v in seen or v.is_const:
            continue
        seen.add(v)
        role = None if v.producer is None else placement.roles.get(v.producer)
        if v.producer is None or role is None:
            return False
        if role in (Role.KEEPS, Role.CLAMPS):
            stack += [w for i in data_operands(v.producer, role) if (w := v.producer.input(i)) is not None]
    return True


# -- groups -----------------------------------------------------------------------------------------------------------
def _groups(placement: Placement) -> list[list[Value]]:
    """Values that are read in integers, in order, sorted into groups by the nodes that keep elements as they are.

    A clamp whose operand nobody else reads is one of these: what saturates in the scale of the result is what it cuts off.
    """
    leader: dict[Value, Value] = {}

    def find(value: Value) -> Value:
        while leader[value] is not value:
            value = leader[value]
        return value

    for node in placement.roles:
        for _, value in placement.operands(node):
            leader.setdefault(value, value)
    for value in placement.results:
        leader.setdefault(value, value)
    for node, role in placement.roles.items():
        if role is not Role.KEEPS and not (role is Role.CLAMPS and _alone(node)):
            continue
        results = [v for v in node.outputs if v is not None and v in leader]
        together = [*(v for _, v in placement.operands(node)), *results]
        for other in together[1:]:
            leader[find(other)] = find(together[0])
    found: dict[Value, list[Value]] = {}
    for value in leader:
        found.setdefault(find(value), []).append(value)
    return list(found.values())


def _alone(clamp: Node) -> bool:
    value = clamp.input(0)
    return value is not None and value.only_use is not None


def seen_of(placement: Placement, value: Value) -> Value:
    """The value whose range is the part of ``value``'s that anybody sees: that behind clamps and moves which alone read it."""
    return onward(placement, value)[-1]


def onward(placement: Placement, value: Value) -> list[Value]:
    """The value, and what clamps and moves that alone read it make of it, one after the other."""
    found = [value]
    while value.only_use is not None:
        node = value.only_use.node
        role = placement.roles.get(node)
        if role not in (Role.KEEPS, Role.CLAMPS) or len(node.outputs) != 1 or value not in node.inputs:
            break
        value = node.out
        found.append(value)
    return found

"""Nodes whose rounding is multiplied later on: positions, sizes and angles, and what is turned into whole numbers."""

from __future__ import annotations

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.registry import ELEMENTWISE, MATRIX_PRODUCT, MOVEMENT, has_trait
from graphopt.passes.precision.narrow_form import is_float32

_JUMPING = ("Ceil", "Cos", "Floor", "Mod", "Range", "Round", "Sin", "Tan")
_POSITION = "positions and sizes have to be exact"
_ROUNDED_LATER = "its result is an angle, a scale or a number to be made whole, where rounding shows"


def exact_values(graph: Graph) -> dict[Node, str]:
    """Nodes that stay in float32 for what becomes of their results, with the reason."""
    positions, products = _positions(graph, through_products=False), _positions(graph, through_products=True)
    found: dict[Node, str] = {}
    for node in reversed(list(graph.walk())):
        made = [v for v in node.outputs if v is not None and is_float32(v)]
        if not made:
            continue
        if _moves(node) and any(v in positions for v in made):
            found[node] = _POSITION
        elif any(_is_scale(use.node, use.index) for v in made for use in v.uses) or (
            (_moves(node) or made[0] in products) and _wanted_exactly(made, found)
        ):
            found[node] = _ROUNDED_LATER
    return found


def _positions(graph: Graph, *, through_products: bool) -> set[Value]:
    """Values computed from whole numbers of more than eight bits and constants alone.

    Args:
        through_products: by matrix products too, which make angles of positions in rotary embeddings; elsewhere what they
            make is data as any other.
    """
    found: set[Value] = set()
    for node in graph.walk():
        made = [v for v in node.outputs if v is not None and is_float32(v)]
        if node.op == "Range" or _is_wide_integer_cast(node):
            found.update(made)
            continue
        if not _moves(node) and not (through_products and _is_product(node)):
            continue
        floats = [v for v in node.inputs if v is not None and is_float32(v)]
        if any(v in found for v in floats) and all(v in found or v.is_const for v in floats):
            found.update(made)
    return found


def _moves(node: Node) -> bool:
    return has_trait(node, ELEMENTWISE) or has_trait(node, MOVEMENT)


def _is_product(node: Node) -> bool:
    return has_trait(node, MATRIX_PRODUCT) or (node.op == "Einsum" and not node.domain)


def _is_wide_integer_cast(node: Node) -> bool:
    source = node.input(0)
    if node.op != "Cast" or node.domain or source is None or source.type is None:
        return False
    return source.dtype.is_int and source.dtype.bits > 8


def _wanted_exactly(made: list[Value], found: dict[Node, str]) -> bool:
    """Whether all readers of the values need them as exact as can be."""
    uses = [use for v in made for use in v.uses]
    if not uses or any(v.is_output for v in made):
        return False
    return all(_jumps(u.node) or _is_scale(u.node, u.index) or found.get(u.node) == _ROUNDED_LATER for u in uses)


def _is_scale(node: Node, index: int) -> bool:
    return node.op == "Resize" and not node.domain and index > 0


def _jumps(node: Node) -> bool:
    """Whether the node's result changes much where its operand is rounded."""
    if node.domain:
        return False
    if node.op == "Cast":
        return DType.from_onnx(int(node.attrs["to"])).is_int
    return node.op in _JUMPING

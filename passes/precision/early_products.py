"""Which products of a float16 model are worth adding up in float32 where a processor adds in float16.

A layer that multiplies in float16 loses more by its additions than by what it stores. Errors of early layers pass through all that
follow, and each layer of a network makes them a little larger against the data: measured over SqueezeNet and MobileNetV2, by about
0.7 dB. Layers that are early and small, as the first ones of many networks, cost little time in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.context import attr
from graphopt.ops.flops import node_flops
from graphopt.ops.linear import summed_axis
from graphopt.ops.registry import CONVOLUTION, LINEAR, has_trait

SHARE = 0.04
"""Of a model's products, so many may be added up in float32, which takes about twice the time."""

_STORED = 4.0
"""Roundings of stored numbers and behind the sum, in units of the error that one addition of a whole sum makes."""
_MOST_ADDED = 144
_LOSS_BEHIND = 0.85
"""The power of an error in a layer against one in the layer before it, 0.7 dB less."""
_DIFFERENCES = 4.0
"""The same for kernels that read an image: they take differences of neighbours, which are alike."""
_ELEMENT_COST = 2.0
"""What a result costs beside its products, in products: conversions, and what follows on fewer lanes."""
_WINOGRAD_GAIN = 3.0
_WINOGRAD_CHANNELS, _WINOGRAD_SUMS, _WINOGRAD_TRANSFORMS = 32, 18.0, 215.0
"""A convolution that may be Winograd's: how much less it multiplies, most channels that come together, and what it loses by sums of
each and by transforms."""


@dataclass(frozen=True)
class _Product:
    """A linear node.

    Attributes:
        node: it.
        cost: multiply-adds, about.
        noise: the power of its error at the end of the model, in some unit.
    """

    node: Node
    cost: float
    noise: float


def early_products(graph: Graph, share: float = SHARE) -> frozenset[Node]:
    """Linear nodes of the outermost graph that add up in float32: where the error shrinks most for their time.

    None where sizes aren't known: then it isn't known what is small.

    Args:
        share: of all products.
    """
    products = list(_products(graph))
    if not all(found is not None for found in products):
        return frozenset()
    known = [found for found in products if found is not None]
    left = share * sum(found.cost for found in known)
    chosen = set()
    for found in sorted(known, key=lambda found: found.cost / found.noise):
        if found.cost <= left:
            left -= found.cost
            chosen.add(found.node)
    return frozenset(chosen)


def _products(graph: Graph) -> list[_Product | None]:
    depths: dict[Value, int] = {}
    found: list[_Product | None] = []
    for node in graph.nodes:
        depth = max((depths.get(v, 0) for v in node.inputs if v is not None), default=0)
        if has_trait(node, LINEAR):
            found.append(_product(node, depth))
            depth += 1
        depths.update((v, depth) for v in node.outputs if v is not None)
    return found


def _product(node: Node, depth: int) -> _Product | None:
    operations, elements = node_flops(node), 1
    for extent in node.out.shape:
        if not isinstance(extent, int):
            return None
        elements *= extent
    if operations is None:
        return None
    if not operations or not elements:
        return _Product(node, 1.0, _STORED)
    added = operations / 2 / elements
    noise, cost = min(added, _MOST_ADDED) / 2 + _STORED, operations / 2
    if _may_be_winograd(node):
        noise = _WINOGRAD_SUMS * min(added / 9, _WINOGRAD_CHANNELS) + _WINOGRAD_TRANSFORMS
        cost /= _WINOGRAD_GAIN
    elif depth == 0 and has_trait(node, CONVOLUTION):
        noise *= _DIFFERENCES
    return _Product(node, cost + _ELEMENT_COST * elements, noise * _LOSS_BEHIND**depth)


def _may_be_winograd(node: Node) -> bool:
    weight = node.input(1)
    if node.op != "Conv" or weight is None or tuple(weight.shape[2:]) != (3, 3) or int(attr(node, "group") or 1) != 1:
        return False
    channels = weight.shape[summed_axis(node, 1)]
    ones = all(int(step) == 1 for name in ("strides", "dilations") for step in node.attrs.get(name) or ())
    return ones and isinstance(channels, int) and channels >= 8

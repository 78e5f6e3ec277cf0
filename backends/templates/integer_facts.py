"""What decides how integers are multiplied, beside types and shapes: groups that agree in it share kernels."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from graphopt.backends.base.template import KernelCall
from graphopt.backends.templates.integer_products import integer_products
from graphopt.backends.templates.reading import constant_weight, scale_of
from graphopt.backends.templates.requantize import requantized_at_once
from graphopt.backends.templates.sum_bits import sum_bits
from graphopt.ir.graph import Array, Node
from graphopt.ops.context import attr

_CHANNELS: dict[str, Callable[[Node, Array], int]] = {
    "Conv": lambda node, weight: int(weight.shape[0]),
    "ConvTranspose": lambda node, weight: int(weight.shape[1]),
    "MatMul": lambda node, weight: int(weight.shape[-1]),
    "Gemm": lambda node, weight: int(weight.shape[0 if attr(node, "transB") else 1]),
}
"""Sums that an element of the data is part of, so that the size of the weight over it is their number of products."""


def integer_facts(call: KernelCall) -> tuple[Hashable, ...]:
    """What templates find out of the elements of scales, weights and biases: a key.

    Args:
        call: the group.
    """
    anchor = call.group.anchor
    data, weight = anchor.input(0), anchor.input(1)
    if anchor not in call.group.nodes or data is None or weight is None:
        return ()
    stored = constant_weight(call, weight)
    if stored is None or not stored.size or anchor.op not in _CHANNELS:
        return ()
    products = integer_products(call, data, weight, stored.size // _CHANNELS[anchor.op](anchor, stored))
    if products is None:
        return ()
    weights = scale_of(call, weight)
    at_once = requantized_at_once(call.group, products.scale, weights, products.bias)
    return (
        products.bias is not anchor.input(2),
        at_once is not None,
        sum_bits(call, data, weight) if anchor.op == "Conv" else 0,
    )

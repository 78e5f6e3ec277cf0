"""What decides how integers are multiplied, beside types and shapes: groups that agree in it share kernels."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from graphopt.backends.base.template import KernelCall
from graphopt.backends.templates.integer_products import integer_products
from graphopt.backends.templates.reading import constant_weight, scale_of
from graphopt.backends.templates.requantize import requantized_at_once
from graphopt.backends.templates.sum_bits import sum_bits
from graphopt.ir.graph import Node
from graphopt.ops.context import attr

_CHANNELS: dict[str, Callable[[Node], int]] = {
    "Conv": lambda node: 0,
    "ConvTranspose": lambda node: 1,
    "MatMul": lambda node: 1,
    "Gemm": lambda node: 0 if attr(node, "transB") else 1,
}
"""The axis of the weight along which sums differ, by operator."""


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
    if stored is None or stored.ndim < 2 or not stored.size or anchor.op not in _CHANNELS:
        return ()
    axis = _CHANNELS[anchor.op](anchor)
    products = integer_products(call, data, weight, stored.size // stored.shape[axis])
    if products is None:
        return ()
    weights = scale_of(call, weight)
    at_once = requantized_at_once(call.group, products.scale, weights, products.bias)
    bits = [sum_bits(call, data, weight, axis, keeps_zero_point=keeps) for keeps in (False, True)]
    return (products.bias is not anchor.input(2), at_once is not None, *bits)

"""Weights that would vanish in a narrow format are multiplied by a power of two, and the weights behind them divided by it.

Trained networks have layers whose weights lie below the smallest normal number of float16 (6e-5), because what they are multiplied
with is large. In y = W2 f(W1 x + b1) with f(s v) = s f(v) for s > 0, W1 and b1 may be multiplied by s and W2 divided by it. With a
power of two all numbers keep their digits, so that the float32 graph computes the same bits as before.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.context import attr
from graphopt.ops.linear import kept_axis
from graphopt.ops.registry import LINEAR, has_trait
from graphopt.passes.precision.narrow_form import is_float32
from graphopt.passes.precision.narrow_format import NarrowFormat

_SCALABLE = frozenset({"Conv", "Gemm", "MatMul"})
_PASSING = frozenset((
    "Abs", "AveragePool", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "Neg", "Relu", "Reshape",
    "Squeeze", "Transpose", "Unsqueeze",
))  # fmt: skip
"""Operators that a positive factor passes through, and that make nothing larger."""


def enlarge_small_weights(graph: Graph, form: NarrowFormat, editor: Editor) -> list[Node]:
    """Scale the layers of a graph whose weights would vanish in ``form``, in place; these layers.

    That is done only where it is proven to be harmless: whatever numbers of the format the layer reads, no sum of its products
    can leave the format's range for the factor, and neither layer's weights vanish afterwards. Values in between get names of
    their own.
    """
    return [node for node in graph.nodes if _enlarged(node, form, editor)]


def _enlarged(node: Node, form: NarrowFormat, editor: Editor) -> bool:
    weight = _own_weight(node) if node.op in _SCALABLE and not node.domain else None
    if weight is None or weight.data is None or not form.vanishes(weight.data) or not _scales_with_weights(node):
        return False
    found = _next_product(node)
    if found is None:
        return False
    second, between = found
    other, bias = second.inputs[1], node.input(2)
    assert other is not None
    assert other.data is not None
    power = min(-math.frexp(_bound(node, form))[1], -math.frexp(float(np.abs(weight.data).max()))[1])
    if power <= 0:
        return False
    scaled, divided = np.ldexp(weight.data, power), np.ldexp(other.data, -power)
    exact = np.array_equal(np.ldexp(divided, power), other.data)
    if form.vanishes(scaled) or form.vanishes(divided) or not exact:
        return False
    editor.set_constant(weight, scaled)
    editor.set_constant(other, divided)
    if bias is not None:
        assert bias.data is not None
        editor.set_constant(bias, np.ldexp(bias.data, power))
    for value in between:
        editor.rename(value, f"{value.name}_enlarged")
    return True


def _own_weight(node: Node) -> Value | None:
    """The constant float32 weight of a linear node that nobody else reads."""
    weight = node.input(1) if has_trait(node, LINEAR) and not node.domain else None
    if weight is None or weight.data is None or not is_float32(weight) or weight.only_use is None:
        return None
    return weight if len(weight.shape) > 1 else None


def _scales_with_weights(node: Node) -> bool:
    """Whether the results are multiplied by what the weight and the bias are multiplied by."""
    bias = node.input(2)
    if bias is not None and (bias.data is None or bias.only_use is None):
        return False
    return all(attr(node, name, 1.0) in (None, 1.0) for name in ("alpha", "beta"))


def _next_product(node: Node) -> tuple[Node, list[Value]] | None:
    """The linear node that alone reads the result, through nothing but what a factor passes through, and the values on the way."""
    value, between = node.out, [node.out]
    while (use := value.only_use) is not None and use.index == 0 and use.node.graph is node.graph:
        reader = use.node
        if _own_weight(reader) is not None:
            return reader, between
        if reader.domain or reader.op not in _PASSING or len(reader.outputs) != 1:
            return None
        value = reader.out
        between.append(value)
    return None


def _bound(node: Node, form: NarrowFormat) -> float:
    """The greatest result, or partial sum, for operands of the format, over its largest number."""
    weight, bias = node.inputs[1], node.input(2)
    assert weight is not None
    assert weight.data is not None
    size = np.abs(weight.data.astype(np.float64))
    kept = kept_axis(node, 1)
    sums = size.sum(axis=tuple(axis for axis in range(size.ndim) if axis != kept))
    added = 0.0 if bias is None or bias.data is None else float(np.abs(bias.data).max(initial=0.0))
    return float(sums.max(initial=0.0)) + added / form.largest

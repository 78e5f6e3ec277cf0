"""Cross-layer equalisation: channels between two products are scaled so that both weights have ranges alike.

After M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-free quantization through weight equalization and bias correction"
(ICCV 2019), section 4.1. Where y = W2 f(W1 x + b1) and f(s v) = s f(v) for s > 0, channel i of the value between may be
divided by any s_i > 0, if row i of W1 and b1 are divided by it and column i of W2 is multiplied. With ranges r1 and r2 of the two,
s = sqrt(r1 / r2) makes both the same. Here s is rounded to a power of two, so that the float graph computes the same bits as
before, as long as nothing leaves the range of normal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Graph, Node, Value
from graphopt.ops.context import attr
from graphopt.ops.linear import kept_axis, summed_axis
from graphopt.ops.registry import CONVOLUTION, POOL, has_trait
from graphopt.passes.quant.roles import Role, role_of
from graphopt.passes.quant.weights import bias_vector
from graphopt.rewrite.passes import PassContext

_ROUNDS = 32
"""Through all pairs, at most. Chains settle in a few."""
_LARGEST = 30
"""A channel is scaled by two to the power of this at most."""


@dataclass(frozen=True)
class Pair:
    """Two products with nothing between but what commutes with scaling a channel.

    Attributes:
        first, second: the products.
        between: values from the result of the first to the operand of the second.
    """

    first: Node
    second: Node
    between: tuple[Value, ...]


def equalize(graph: Graph, ctx: PassContext) -> list[Pair]:
    """Equalise all pairs of a graph in place, again and again until nothing changes; the pairs that were changed.

    Values between are others then, so they get names of their own.
    """
    editor, pairs = ctx.editor(graph), list(pairs_of(graph))
    changed: dict[int, Pair] = {}
    for _ in range(_ROUNDS):
        again = False
        for number, pair in enumerate(pairs):
            powers = _powers(pair)
            if powers.any():
                _scale(editor, pair, powers)
                changed[number] = pair
                again = True
        if not again:
            break
    for value in dict.fromkeys(value for pair in changed.values() for value in pair.between):
        editor.rename(value, f"{value.name}_equalized")
    return list(changed.values())


def pairs_of(graph: Graph) -> Iterator[Pair]:
    """Pairs in order of computation. Weights and biases are constants that nobody else reads; so are the values between."""
    for node in graph.nodes:
        if not _may_be_first(node):
            continue
        between, value = [node.out], node.out
        while (use := value.only_use) is not None and use.node.graph is graph and use.index == 0:
            if _may_be_second(use.node):
                if has_trait(node, CONVOLUTION) is has_trait(use.node, CONVOLUTION):  # channels are on the same axis
                    yield Pair(node, use.node, tuple(between))
                break
            if not _commutes(use.node, node):
                break
            value = use.node.out
            between.append(value)


def _may_be_first(node: Node) -> bool:
    bias = node.input(2)
    return _has_own_weight(node) and (bias is None or (bias.only_use is not None and bias_vector(node) is not None))


def _may_be_second(node: Node) -> bool:
    return _has_own_weight(node) and node.inputs[0] is not node.inputs[1]


def _has_own_weight(node: Node) -> bool:
    if role_of(node) is not Role.PRODUCT:
        return False
    weight = node.input(1)
    if weight is None or weight.data is None or weight.only_use is None or len(weight.shape) < 2:
        return False
    if has_trait(node, CONVOLUTION):
        return node.op == "Conv" and (_groups(node) == 1 or _is_depthwise(node))
    return len(weight.shape) == 2 and not attr(node, "transA")


def _commutes(node: Node, first: Node) -> bool:
    """Whether scaling a channel of the operand by a positive number scales that channel of the result."""
    if node.domain or len(node.outputs) != 1:
        return False
    if node.op == "Relu" or node.op == "Identity":
        return True
    return has_trait(node, POOL) and has_trait(first, CONVOLUTION)  # pools go over all axes but the first two


def _groups(node: Node) -> int:
    return int(attr(node, "group") or 1)


def _is_depthwise(node: Node) -> bool:
    """Whether every input channel makes one output channel."""
    weight = node.input(1)
    return (
        has_trait(node, CONVOLUTION) and weight is not None and _groups(node) > 1
        and weight.shape[:2] == (_groups(node), 1)
    )  # fmt: skip


def _input_axis(node: Node) -> int:
    return 0 if _is_depthwise(node) else summed_axis(node, 1)


def _range(node: Node, axis: int) -> Array:
    """The largest magnitude of a weight along an axis."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.data is not None
    size: Array = np.abs(weight.data.astype(np.float64))
    found: Array = size.max(axis=tuple(a for a in range(size.ndim) if a != axis), initial=0.0)
    return found


def _powers(pair: Pair) -> Array:
    """Exponents of what each channel is divided by. Channels that one of the two hasn't anything of stay as they are."""
    one, other = _range(pair.first, kept_axis(pair.first, 1)), _range(pair.second, _input_axis(pair.second))
    there = (one > 0) & (other > 0) & np.isfinite(one) & np.isfinite(other)
    wanted = np.log2(np.where(there, one, 1.0) / np.where(there, other, 1.0)) / 2
    found: Array = np.clip(np.rint(wanted), -_LARGEST, _LARGEST).astype(np.int64)
    return found


def _scale(editor: Editor, pair: Pair, powers: Array) -> None:
    _multiply(editor, pair.first.inputs[1], -powers, kept_axis(pair.first, 1))
    bias = pair.first.input(2)
    if bias is not None:
        assert bias.data is not None
        vector = bias_vector(pair.first)
        assert vector is not None
        editor.set_constant(bias, np.ldexp(vector, -powers).astype(bias.data.dtype))
    _multiply(editor, pair.second.inputs[1], powers, _input_axis(pair.second))


def _multiply(editor: Editor, value: Value | None, powers: Array, axis: int) -> None:
    assert value is not None
    assert value.data is not None
    shape = [1] * value.data.ndim
    shape[axis] = -1
    editor.set_constant(value, np.ldexp(value.data, powers.reshape(shape)).astype(value.data.dtype))

"""Bias correction: the mean error of what a product gives, channel by channel, is taken from its bias.

After M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-free quantization through weight equalization and bias correction"
(ICCV 2019), section 4.2: rounding a weight shifts the mean of a channel, and shifts of many layers add up. Here the error is
measured on data, and of each layer by itself: on its own operand, rounded, in a network that is float otherwise. So it holds what
clipping does as well, one pass gives the errors of all layers, and they don't depend on the order of layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.linear import channel_axis
from graphopt.ops.registry import BIAS, COMMUTATIVE, MATRIX_PRODUCT, has_trait
from graphopt.passes.quant.plan import QuantPlan
from graphopt.passes.quant.rounded import Rounded
from graphopt.passes.quant.weights import bias_vector, output_channels
from graphopt.rewrite.passes import PassContext


@dataclass(frozen=True)
class ErrorSums:
    """Outputs that tell the error of a layer on one feed.

    Attributes:
        sums: name of the sums of errors by output channel.
        count: name of the number of elements that the layer gave.
        channels: how many output channels there are.
    """

    sums: str
    count: str
    channels: int


def measure_errors(plan: QuantPlan, ctx: PassContext) -> dict[str, ErrorSums]:
    """Make the errors of products the outputs of the plan's graph, in place: of all that can be corrected, by their name."""
    placement, graph = plan.placement, plan.placement.graph
    editor = ctx.editor(graph)
    rounded = Rounded(graph, editor)
    found: dict[str, ErrorSums] = {}
    outputs: list[Value] = []
    outermost = [node for node in plan.weights if node.graph is graph]  # sums of branches and loops aren't handed on
    for node in [node for node in outermost if placement.weights[node] == 1 and _place(node) is not None]:
        operands = {i: rounded.value(v, plan.values[v], node) for i, v in placement.operands(node)}
        at = graph.position(node) + 1
        behind = graph.nodes[at] if at < len(graph.nodes) else None
        twin = rounded.twin(node, plan, operands, behind)
        error = editor.node("Sub", [twin, node.out], before=behind, name="error").out
        kept = channel_axis(node)
        axes = [axis for axis in range(len(node.out.shape)) if axis != kept]
        over = editor.constant(np.asarray(axes, np.int64), "axes")
        sums = editor.node("ReduceSum", [error, over], {"keepdims": 0}, before=behind, name="error").out
        count = editor.node("Size", [error], before=behind, name="error").out
        outputs += [sums, count]
        found[node.name] = ErrorSums(sums.name, count.name, output_channels(node))
    editor.set_outputs(graph, outputs)
    return found


def correct(editor: Editor, node: Node, error: Array) -> bool:
    """Take an error from what a product gives; whether there was a place for it.

    Args:
        error: one for each output channel.
    """
    place = _place(node)
    if place is None:
        return False
    owner, index = place
    old = owner.input(index)
    numbers = 0.0 if old is None else bias_vector(node) if owner is node else _vector(old)
    assert numbers is not None
    new = editor.constant((numbers - error).astype(np.float32), f"{node.name}_bias" if old is None else old.name)
    editor.set_input(owner, index, new)
    return True


def _place(node: Node) -> tuple[Node, int] | None:
    """Where a number can be added to each output channel: the node's own bias, or that of the Add behind it."""
    if has_trait(node, BIAS):
        return (node, 2) if node.input(2) is None or bias_vector(node) is not None else None
    use = node.out.only_use
    if (
        has_trait(node, MATRIX_PRODUCT)
        and use is not None
        and use.node.op == "Add"
        and has_trait(use.node, COMMUTATIVE)
    ):
        other = use.node.input(1 - use.index)
        if other is not None and other.data is not None and other.shape == (output_channels(node),):
            return use.node, 1 - use.index
    return None


def _vector(value: Value) -> Array:
    assert value.data is not None
    return value.data

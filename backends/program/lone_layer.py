"""Predicted time of one layer with constant weights, alone, on operands of any extents: what pruning searches with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.cost import CostModel
from graphopt.backends.base.template import KernelCall, KernelTemplate, weigh
from graphopt.backends.templates.convolution import channel_layout
from graphopt.ir.editor import Editor
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import TensorType
from graphopt.ops.context import attr
from graphopt.ops.registry import CONVOLUTION, has_trait

Extents = tuple[int, ...]


def layer_seconds(
    node: Node, data: Extents, weight: Extents, result: Extents, flops: int, all_weights: int,
    templates: Sequence[KernelTemplate[Any]], costs: CostModel, caps: Caps,
) -> float:  # fmt: skip
    """Of the cheapest template, or of the generic schedule where none takes it, but never less than its bytes take.

    Args:
        data, weight, result: extents of the operands and of the result.
        flops: operations at these extents.
        all_weights: bytes of the model's weights together.
    """
    if len(data) == 3 and has_trait(node, CONVOLUTION):  # compiled as one row of an image
        data, weight, result = ((*s[:2], 1, *s[2:]) for s in (data, weight, result))
    best = next(iter(weigh(templates, _alone(node, data, weight, result, caps), caps)), None)
    floor = costs.moved_seconds(4 * math.prod(weight), 4 * (math.prod(data) + math.prod(result)), caps, all_weights)
    if best is not None and best.seconds is not None:
        return max(best.seconds, floor)
    return max(floor, costs.arithmetic_seconds(flops, caps))


def _alone(node: Node, data: Extents, weight: Extents, result: Extents, caps: Caps) -> KernelCall:
    """The layer as a kernel of its own, on operands of these shapes in the layouts that it would like best."""
    assert node.inputs[0] is not None
    dtype = node.inputs[0].dtype
    attrs = dict(node.attrs)
    if has_trait(node, CONVOLUTION):
        if len(weight) > len(node.inputs[1].shape if node.inputs[1] is not None else ()):
            _one_row(attrs)
        if int(attr(node, "group") or 1) > 1:
            attrs["group"] = data[1] // weight[1] if node.op == "Conv" else result[1] // weight[1]
    graph = Graph(node.name, opset=node.graph.opset if node.graph is not None else 0)
    zeros = np.broadcast_to(np.zeros((), dtype.numpy), weight)
    editor = Editor(graph)
    operands = [editor.add_input("x", TensorType(dtype, data)), editor.constant(zeros, "w")]
    out = editor.value("y", TensorType(dtype, result))
    layer = editor.node(node.op, operands, attrs, outputs=[out], name=node.name)
    group = Group([layer], layer, outputs=[out])
    layouts = {v: channel_layout(v.shape[1], caps) for v in (operands[0], out)} if node.op == "Conv" else {}
    return KernelCall(FusedGraph(graph, [group], layouts), group)


def _one_row(attrs: dict[str, object]) -> None:
    """Attributes of a convolution along one axis as of one over images of one row."""
    for name, filler in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
        value = attrs.get(name)
        if isinstance(value, list):
            attrs[name] = [filler, *value]
    pads = attrs.get("pads")
    if isinstance(pads, list):
        attrs["pads"] = [0, pads[0], 0, pads[1]]

"""What integers stand for, as floats in a float graph: the numbers of a quantized layer beside those of the layer itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.errors import InternalError
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Graph, Node, Value
from graphopt.ops.registry import BIAS, has_trait
from graphopt.passes.quant.parameters import Parameters, quantized
from graphopt.passes.quant.plan import QuantPlan


class Rounded:
    """Makes nodes that compute what integers stand for, beside a graph's own.

    Args:
        graph: in float.
        editor: of it.
    """

    def __init__(self, graph: Graph, editor: Editor) -> None:
        self._graph, self._editor = graph, editor
        self._made: dict[tuple[Value, Parameters], Value] = {}

    def value(self, value: Value, parameters: Parameters, reader: Node) -> Value:
        """What a value is once it was stored in integers; once for all readers, so right behind the value."""
        key = value, parameters
        if key in self._made:
            return self._made[key]
        if value.data is not None:
            numbers = stands_for(value.data, parameters, None)
            self._made[key] = self._editor.constant(numbers, f"{value.name}_rounded")
            return self._made[key]
        before = reader
        if value.producer is not None:
            at = self._graph.position(value.producer) + 1
            before = self._graph.nodes[at] if at < len(self._graph.nodes) else reader
        elif self._graph.nodes:
            before = self._graph.nodes[0]
        scale = self._editor.constant(parameters.scale, f"{value.name}_scale")
        zero = self._editor.constant(parameters.zero_point, f"{value.name}_zero_point")
        integers = self._editor.node("QuantizeLinear", [value, scale, zero], before=before, name="rounded").out
        back = self._editor.node("DequantizeLinear", [integers, scale, zero], before=before, name="rounded")
        self._made[key] = back.out
        return back.out

    def twin(self, node: Node, plan: QuantPlan, operands: Mapping[int, Value], before: Node | None) -> Value:
        """The result of a product with the weight and bias that integers stand for.

        Args:
            operands: by position, what it multiplies instead of its own operands.
            before: where it is computed.
        """
        weight, bias = plan.weights[node], plan.biases.get(node)
        assert weight.value.data is not None
        inputs: list[Value | None] = [operands.get(i, value) for i, value in enumerate(node.inputs)]
        numbers = stands_for(weight.value.data, weight.parameters, weight.axis)
        inputs[plan.placement.weights[node]] = self._editor.constant(numbers, f"{weight.value.name}_rounded")
        if bias is not None:
            if not has_trait(node, BIAS):
                raise InternalError(f"{node.label} has a bias and no place for it", code="quantization")
            inputs[2] = self._editor.constant(
                bias.integers.astype(np.float32) * bias.scale.astype(np.float32), f"{node.name}_bias_rounded"
            )
        return self._editor.node(node.op, inputs, dict(node.attrs), before=before, name=node.name).out


def stands_for(array: Array, parameters: Parameters, axis: int | None) -> Array:
    """An array once it was stored in integers."""
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    scale, zero = parameters.scale.reshape(shape), parameters.zero_point.reshape(shape)
    steps = quantized(array, parameters, axis).astype(np.int64) - zero.astype(np.int64)
    found: Array = steps.astype(array.dtype) * scale
    return found

"""Dynamic quantization: weights in 8 bits, and data as uint8 in the range that each tensor has while the model runs.

DynamicQuantizeLinear measures the range, MatMulInteger multiplies, and the sums are scaled back to float; ONNX Runtime's
``quantize_dynamic`` writes the same, which runtimes know as a pattern. No data is needed, and none decides anything. Weights are
symmetric, and stored with 128 added to them, as uint8: on x86 processors without VNNI the kernels of ONNX Runtime for uint8 times
int8 add pairs of products in 16 bits and saturate, those for uint8 times uint8 are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.context import attr
from graphopt.ops.registry import MATRIX_PRODUCT, has_trait
from graphopt.passes.quant.parameters import IntegerForm, Parameters, quantized
from graphopt.passes.quant.placement import Left
from graphopt.passes.quant.roles import Role, is_float32, role_of
from graphopt.passes.quant.weights import channel_axis_of, weight_parameters
from graphopt.rewrite.passes import PassContext

_MIDDLE = 128
"""What stands for zero in a weight."""
StaysFloat = Callable[[Node], Left | None]
"""Why a user wants a node in float, None where not."""


@dataclass(frozen=True)
class DynamicProduct:
    """One product.

    Attributes:
        node: its name.
        op: its operator.
        scales: how many scales its weight has; 0 for one that stays in float.
        left: why it stays, None otherwise.
    """

    node: str
    op: str
    scales: int
    left: Left | None


def quantize_dynamically(
    graph: Graph, weights: IntegerForm, ctx: PassContext, *, per_channel: bool, stays: StaysFloat
) -> list[DynamicProduct]:
    """Quantize products of matrices with constant weights in place, those in branches and loops too.

    Args:
        weights: how they are stored; symmetric.
        per_channel: a scale for each column of a weight.
        stays: what a user wants in float.
    """
    found = _Dynamic(graph, weights, ctx, per_channel, stays)
    found.run(graph)
    return found.products


class _Dynamic:
    def __init__(
        self, graph: Graph, weights: IntegerForm, ctx: PassContext, per_channel: bool, stays: StaysFloat
    ) -> None:
        self.form, self.ctx, self.per_channel, self.stays = weights, ctx, per_channel, stays
        self.products: list[DynamicProduct] = []
        self.zero: Value | None = None
        self.weights: dict[tuple[Value, int | None, bool], tuple[Value, Parameters]] = {}

    def run(self, graph: Graph) -> None:
        editor = self.ctx.editor(graph)
        data: dict[Value, tuple[Value, Value, Value]] = {}
        for node in list(graph.nodes):
            for sub in node.subgraphs:
                self.run(sub)
            if role_of(node) is not Role.PRODUCT:
                continue
            left = self.stays(node) or _left(node)
            scales = 0
            if left is None:
                scales = self.product(editor, node, data)
            self.products.append(DynamicProduct(node.name, node.qualified_op, scales, left))

    def product(self, editor: Editor, node: Node, data: dict[Value, tuple[Value, Value, Value]]) -> int:
        """Put integers in a product's place; how many scales its weight has."""
        x = node.inputs[0]
        assert x is not None
        if x not in data:
            made = editor.node("DynamicQuantizeLinear", [x], outputs=3, before=node, name=f"{x.name}_quantize")
            integers, scale, zero = made.outputs
            assert integers is not None
            assert scale is not None
            assert zero is not None
            data[x] = integers, scale, zero
        integers, scale, zero = data[x]
        weight, parameters = self.weight(editor, node)
        sums = editor.node("MatMulInteger", [integers, weight, zero, self.middle(editor)], before=node, like=[node]).out
        wide = editor.node("Cast", [sums], {"to": DType.f32.onnx}, before=node, name=f"{node.name}_cast").out
        alpha = np.float32(attr(node, "alpha", 1.0) if node.op == "Gemm" else 1.0)
        unit = editor.constant(parameters.scale * alpha, f"{node.inputs[1].name}_scale")  # type: ignore[union-attr]
        both = editor.node("Mul", [scale, unit], before=node, name=f"{node.name}_scale").out
        result = editor.node("Mul", [wide, both], before=node, name=f"{node.name}_scaled").out
        if node.input(2) is not None:
            bias = self.bias(editor, node)
            result = editor.node("Add", [result, bias], before=node, name=f"{node.name}_bias").out
        editor.replace(node.out, result)
        editor.erase(node)
        return int(parameters.scale.size)

    def weight(self, editor: Editor, node: Node) -> tuple[Value, Parameters]:
        """The weight in integers with rows to be summed over, once for all that read it so."""
        value = node.inputs[1]
        assert value is not None
        assert value.data is not None
        axis = channel_axis_of(node, 1) if self.per_channel else None
        turned = bool(node.op == "Gemm" and attr(node, "transB"))
        key = value, axis, turned
        if key not in self.weights:
            parameters = weight_parameters(value, axis, self.form)
            integers = (quantized(value.data, parameters, axis).astype(np.int16) + _MIDDLE).astype(np.uint8)
            stored = np.ascontiguousarray(integers.T) if turned else integers
            self.weights[key] = editor.constant(stored, f"{value.name}_quantized"), parameters
        return self.weights[key]

    def middle(self, editor: Editor) -> Value:
        """What stands for zero in a weight."""
        if self.zero is None:
            self.zero = editor.constant(np.uint8(_MIDDLE), "weight_zero_point")
        return self.zero

    @staticmethod
    def bias(editor: Editor, node: Node) -> Value:
        """What a Gemm adds."""
        value, beta = node.inputs[2], np.float32(attr(node, "beta", 1.0))
        assert value is not None
        if beta == 1:
            return value
        if value.data is not None:
            return editor.constant(value.data * beta, value.name)
        factor = editor.constant(beta, f"{node.name}_beta")
        return editor.node("Mul", [value, factor], before=node, name=f"{node.name}_beta").out


def _left(node: Node) -> Left | None:
    """What speaks against a product."""
    if not has_trait(node, MATRIX_PRODUCT):
        return Left("rule", "convolutions are quantized with calibration data only")
    x, weight = node.input(0), node.input(1)
    if x is None or x.is_const or weight is None or weight.data is None:
        return Left("rule", "it has no constant weight on the right")
    if len(weight.shape) < 2 or not is_float32(x) or attr(node, "transA"):
        return Left("rule", "MatMulInteger has no form for it")
    return None

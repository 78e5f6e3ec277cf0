"""Carrying out a plan: QuantizeLinear and DequantizeLinear before every operand that is read in integers, as standard ONNX."""

from __future__ import annotations

from graphopt.errors import InternalError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.passes.quant.parameters import Parameters, quantized
from graphopt.passes.quant.plan import QuantPlan, StoredWeight
from graphopt.rewrite.passes import PassContext


def apply_quantization(plan: QuantPlan, ctx: PassContext) -> None:
    """Quantize the plan's graph in place. Names of all that was there stay, and the float values keep theirs.

    Scales along an axis need opset 13 and integers of 16 bits 21, which export finds by itself.
    """
    if plan.values:
        _Quantization(plan, ctx.editor(plan.placement.graph)).run()


class _Quantization:
    def __init__(self, plan: QuantPlan, editor: Editor) -> None:
        self.plan, self.editor = plan, editor
        self.graph: Graph = plan.placement.graph
        self.read: dict[Value, Value] = {}
        self.stored: dict[StoredWeight, Value] = {}
        self.constants: dict[Parameters, tuple[Value, Value]] = {}

    def run(self) -> None:
        placement = self.plan.placement
        operands = [(node, placement.operands(node)) for node in placement.roles]  # before anything is moved
        for node, found in operands:
            for index, value in found:
                self.editor.set_input(node, index, self.from_integers(value, node))
        for node, weight in self.plan.weights.items():
            self.editor.set_input(node, placement.weights[node], self.weight(weight, node))
        for node in self.plan.biases:
            self.bias(node)
        for value in placement.results:
            self.result(value)
        if placement.runtime.saturates:
            for node in [node for node in placement.roles if node.op == "Relu"]:
                self.saturate(node)

    def from_integers(self, value: Value, reader: Node) -> Value:
        """The value once it was stored in integers; all that read them share it."""
        if value not in self.read:
            parameters = self.plan.values[value]
            scale, zero = self.parameters(parameters, value.name)
            if value.data is not None:
                integers = self.editor.constant(quantized(value.data, parameters), f"{value.name}_quantized")
                self.read[value] = self.dequantize(integers, scale, zero, value.name, None, reader)
            else:
                before = self.after(value)
                integers = self.editor.value(f"{value.name}_quantized")
                self.editor.node(
                    "QuantizeLinear", [value, scale, zero], outputs=[integers], name=f"{value.name}_quantize",
                    before=before, like=self.like(value),
                )  # fmt: skip
                self.read[value] = self.dequantize(integers, scale, zero, value.name, None, before, self.like(value))
        return self.read[value]

    def weight(self, weight: StoredWeight, reader: Node) -> Value:
        """The one copy of a weight in integers, behind its DequantizeLinear."""
        if weight not in self.stored:
            assert weight.value.data is not None
            name = weight.value.name
            integers = quantized(weight.value.data, weight.parameters, weight.axis)
            scale, zero = self.parameters(weight.parameters, name)
            self.stored[weight] = self.dequantize(
                self.editor.constant(integers, f"{name}_quantized"), scale, zero, name, weight.axis, reader
            )
        return self.stored[weight]

    def bias(self, node: Node) -> None:
        bias, old = self.plan.biases[node], node.input(2)
        assert old is not None
        integers = self.editor.constant(bias.integers, f"{old.name}_quantized")
        scale = self.editor.constant(bias.scale, f"{old.name}_scale")
        self.editor.set_input(node, 2, self.dequantize(integers, scale, None, old.name, 0, node))

    def result(self, value: Value) -> None:
        """Let all that read a value read it once it was stored in integers, the graph's outputs too."""
        maker = value.producer
        assert maker is not None
        others = list(value.uses)
        read = self.from_integers(value, maker)
        for use in others:
            if use.node.op != "QuantizeLinear":
                self.editor.set_input(use.node, use.index, read)
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.editor.set_output(self.graph, index, read)
                self.editor.swap_names(value, read)

    def saturate(self, relu: Node) -> None:
        """Leave a Relu out whose result becomes integers and nothing else, if saturation does the same."""
        value, source = relu.out, relu.inputs[0]
        if value not in self.plan.values or source is None or value.escapes:
            return
        parameters = self.plan.values[value]
        dtype = parameters.dtype
        least = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
        if int(parameters.zero_point) == least and all(
            use.node.op == "QuantizeLinear" and use.index == 0 for use in value.uses
        ):
            for use in list(value.uses):
                self.editor.set_input(use.node, use.index, source)
            self.editor.erase(relu)

    # -- pieces -------------------------------------------------------------------------------------------------------
    def parameters(self, parameters: Parameters, name: str) -> tuple[Value, Value]:
        """Scale and zero point as constants, shared by all that they hold for."""
        if parameters not in self.constants:
            self.constants[parameters] = (
                self.editor.constant(parameters.scale, f"{name}_scale"),
                self.editor.constant(parameters.zero_point, f"{name}_zero_point"),
            )
        return self.constants[parameters]

    def dequantize(
        self, integers: Value, scale: Value, zero: Value | None, name: str, axis: int | None, before: Node | None,
        like: list[Node] | None = None,
    ) -> Value:  # fmt: skip
        out = self.editor.value(f"{name}_dequantized")
        node = self.editor.node(
            "DequantizeLinear", [integers, scale, zero] if zero is not None else [integers, scale],
            {} if axis is None else {"axis": axis}, outputs=[out], name=f"{name}_dequantize", before=before, like=like or [],
        )  # fmt: skip
        if node.out.dtype is not DType.f32:
            raise InternalError(f"%{name} comes back as {node.out.type}", code="quantization")
        return node.out

    def after(self, value: Value) -> Node | None:
        """The node that a value's QuantizeLinear stands before: the one behind its producer."""
        if value.producer is None:
            return self.first()
        at = self.graph.position(value.producer) + 1
        return self.graph.nodes[at] if at < len(self.graph.nodes) else None

    def first(self) -> Node | None:
        return self.graph.nodes[0] if self.graph.nodes else None

    @staticmethod
    def like(value: Value) -> list[Node]:
        return [value.producer] if value.producer is not None else []

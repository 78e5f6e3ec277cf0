"""Carrying out a plan: QuantizeLinear and DequantizeLinear before every operand that is read in integers, as standard ONNX."""

from __future__ import annotations

from graphopt.errors import InternalError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.passes.quant.bodies import Bodies
from graphopt.passes.quant.parameters import Parameters, quantized
from graphopt.passes.quant.plan import QuantPlan, StoredWeight
from graphopt.rewrite.passes import PassContext


def apply_quantization(plan: QuantPlan, ctx: PassContext) -> None:
    """Quantize the plan's graph in place. Names of all that was there stay, and the float values keep theirs.

    A value is stored in integers once, where it is computed. DequantizeLinear stands in the graph of what reads it, in a branch or
    loop too, so that it is one kernel with its reader there.

    Scales along an axis need opset 13 and integers of 16 bits 21, which export finds by itself.
    """
    if plan.values:
        _Quantization(plan, ctx).run()


class _Quantization:
    def __init__(self, plan: QuantPlan, ctx: PassContext) -> None:
        self.plan, self.ctx = plan, ctx
        self.graph: Graph = plan.placement.graph
        self.bodies = Bodies(self.graph)
        self.editors: dict[Graph, Editor] = {}
        self.integers: dict[Value, Value] = {}
        self.read: dict[tuple[Value, Graph], Value] = {}
        self.stored: dict[StoredWeight, Value] = {}
        self.weights: dict[tuple[StoredWeight, Graph], Value] = {}
        self.constants: dict[Parameters, tuple[Value, Value]] = {}

    def run(self) -> None:
        placement = self.plan.placement
        operands = [(node, placement.operands(node)) for node in placement.roles]  # before anything is moved
        for node, found in operands:
            for index, value in found:
                self.editor(node).set_input(node, index, self.from_integers(value, node))
        for node, weight in self.plan.weights.items():
            self.editor(node).set_input(node, placement.weights[node], self.weight(weight, node))
        for node in self.plan.biases:
            self.bias(node)
        for value in placement.results:
            self.result(value)
        if placement.runtime.saturates:
            for node in [node for node in placement.roles if node.op == "Relu"]:
                self.saturate(node)

    def from_integers(self, value: Value, reader: Node) -> Value:
        """The value once it was stored in integers; all that read them in the reader's graph share it."""
        graph = self.graph_of(reader)
        if (value, graph) not in self.read:
            parameters = self.plan.values[value]
            scale, zero = self.parameters(parameters, value.name)
            integers, behind = self.quantize(value, parameters), self.integers[value].producer
            before: Node | None = reader
            if behind is not None and behind.graph is graph:
                at = graph.position(behind) + 1
                before = graph.nodes[at] if at < len(graph.nodes) else None
            elif behind is not None and graph.nodes:
                before = graph.nodes[
                    0
                ]  # of a branch or loop that reads what an outer graph has: before all that may read it
            like = [] if value.data is not None else self.like(value)
            self.read[value, graph] = self.dequantize(integers, scale, zero, value.name, None, graph, before, like)
        return self.read[value, graph]

    def quantize(self, value: Value, parameters: Parameters) -> Value:
        """The integers of a value, behind what computes it."""
        if value not in self.integers:
            name = f"{value.name}_quantized"
            if value.data is not None:
                self.integers[value] = self.editor_in(self.graph).constant(quantized(value.data, parameters), name)
            else:
                home = self.bodies.home(value)
                assert home is not None, "no constant"
                scale, zero = self.parameters(parameters, value.name)
                editor = self.editor_in(home)
                self.integers[value] = editor.value(name)
                editor.node(
                    "QuantizeLinear", [value, scale, zero], outputs=[self.integers[value]], name=f"{value.name}_quantize",
                    before=self.after(value, home), like=self.like(value),
                )  # fmt: skip
        return self.integers[value]

    def weight(self, weight: StoredWeight, reader: Node) -> Value:
        """The one copy of a weight in integers, behind its DequantizeLinear in the reader's graph."""
        graph, name = self.graph_of(reader), weight.value.name
        if (weight, graph) not in self.weights:
            if weight not in self.stored:
                assert weight.value.data is not None
                integers = quantized(weight.value.data, weight.parameters, weight.axis)
                self.stored[weight] = self.editor_in(self.graph).constant(integers, f"{name}_quantized")
            scale, zero = self.parameters(weight.parameters, name)
            self.weights[weight, graph] = self.dequantize(
                self.stored[weight], scale, zero, name, weight.axis, graph, reader
            )
        return self.weights[weight, graph]

    def bias(self, node: Node) -> None:
        bias, old, editor = self.plan.biases[node], node.input(2), self.editor(node)
        assert old is not None
        integers = editor.constant(bias.integers, f"{old.name}_quantized")
        scale = editor.constant(bias.scale, f"{old.name}_scale")
        editor.set_input(node, 2, self.dequantize(integers, scale, None, old.name, 0, self.graph_of(node), node))

    def result(self, value: Value) -> None:
        """Let all that read a value read it once it was stored in integers, the outputs of its graph too."""
        maker = value.producer
        assert maker is not None
        graph, editor = self.graph_of(maker), self.editor(maker)
        others = list(value.uses)
        read = self.from_integers(value, maker)
        for use in others:
            if use.node.op != "QuantizeLinear":
                editor.set_input(use.node, use.index, read)
        for index, output in enumerate(graph.outputs):
            if output is value:
                editor.set_output(graph, index, read)
                editor.swap_names(value, read)

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
                self.editor(relu).set_input(use.node, use.index, source)
            self.editor(relu).erase(relu)

    # -- pieces -------------------------------------------------------------------------------------------------------
    @staticmethod
    def graph_of(node: Node) -> Graph:
        assert node.graph is not None
        return node.graph

    def editor(self, node: Node) -> Editor:
        """Of the graph that a node stands in."""
        return self.editor_in(self.graph_of(node))

    def editor_in(self, graph: Graph) -> Editor:
        if graph not in self.editors:
            self.editors[graph] = self.ctx.editor(graph)
        return self.editors[graph]

    def parameters(self, parameters: Parameters, name: str) -> tuple[Value, Value]:
        """Scale and zero point as constants, shared by all that they hold for."""
        if parameters not in self.constants:
            editor = self.editor_in(self.graph)
            self.constants[parameters] = (
                editor.constant(parameters.scale, f"{name}_scale"),
                editor.constant(parameters.zero_point, f"{name}_zero_point"),
            )
        return self.constants[parameters]

    def dequantize(
        self, integers: Value, scale: Value, zero: Value | None, name: str, axis: int | None, graph: Graph, before: Node | None,
        like: list[Node] | None = None,
    ) -> Value:  # fmt: skip
        editor = self.editor_in(graph)
        out = editor.value(f"{name}_dequantized")
        node = editor.node(
            "DequantizeLinear", [integers, scale, zero] if zero is not None else [integers, scale],
            {} if axis is None else {"axis": axis}, outputs=[out], name=f"{name}_dequantize", before=before, like=like or [],
        )  # fmt: skip
        if node.out.dtype is not DType.f32:
            raise InternalError(f"%{name} comes back as {node.out.type}", code="quantization")
        return node.out

    @staticmethod
    def after(value: Value, home: Graph) -> Node | None:
        """The node that a value's QuantizeLinear stands before: the one behind its producer, or the first."""
        at = 0 if value.producer is None else home.position(value.producer) + 1
        return home.nodes[at] if at < len(home.nodes) else None

    @staticmethod
    def like(value: Value) -> list[Node]:
        return [value.producer] if value.producer is not None else []

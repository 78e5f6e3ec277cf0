"""A float graph in which every layer can be switched to the numbers that its integers stand for, while it runs.

How much each layer costs takes a run for every layer or group of layers. With an input that switches a layer, all these runs share
one compiled graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.passes.quant.placement import Placement
from graphopt.passes.quant.plan import QuantPlan
from graphopt.passes.quant.roles import Role
from graphopt.passes.quant.rounded import Rounded
from graphopt.rewrite.passes import PassContext


@dataclass(frozen=True)
class Switches:
    """The inputs that a graph was given.

    Attributes:
        inputs: by the name of the layer, a boolean input for each of the plans; all false is float.
    """

    inputs: dict[str, tuple[str, ...]]


def layers_of(placement: Placement) -> list[Node]:
    """Nodes that read integers to compute other numbers: what can be left in float by itself. The rest follows those around it."""
    return [
        node
        for node, role in placement.roles.items()
        if role in (Role.PRODUCT, Role.COMPUTES) and placement.operands(node)
    ]


def add_switches(plans: Sequence[QuantPlan], ctx: PassContext) -> Switches:
    """Give the graph that the first plan is for an input for every layer and plan, in place.

    A product is computed twice, with its own weight and with that of the integers, because weights have to be constants to be
    packed; its operands are chosen before. What moves elements needs no switch: it hands on what is rounded behind it.

    Args:
        plans: for the same graph or copies of it, such as one with 8 and one with 16 bits.
    """
    graph = plans[0].placement.graph
    return Switches(_Switching(plans, graph, ctx.editor(graph)).run())


class _Switching:
    def __init__(self, plans: Sequence[QuantPlan], graph: Graph, editor: Editor) -> None:
        self.plan, self.graph, self.editor = plans[0], graph, editor
        self.values = [{value.name: parameters for value, parameters in plan.values.items()} for plan in plans]
        self.rounded = Rounded(graph, editor)

    def run(self) -> dict[str, tuple[str, ...]]:
        placement = self.plan.placement
        found = {}
        layers = [(node, [(i, v.name) for i, v in placement.operands(node)]) for node in layers_of(placement)]
        for node, operands in layers:
            switches = [
                self.editor.add_input(f"{node.name}_in_integers", TensorType(DType.bool_, ())) for _ in self.values
            ]
            for index, name in operands:
                value = node.inputs[index]  # the choice that stands for it by now, if a layer computed it
                assert value is not None
                self.editor.set_input(node, index, self.chosen(value, name, switches, node))
            if node in self.plan.weights:
                self.second(node, switches)
            found[node.name] = tuple(switch.name for switch in switches)
        return found

    def chosen(self, value: Value, name: str, switches: Sequence[Value], reader: Node) -> Value:
        """The value, or what its integers stand for.

        Args:
            name: that the plans have for it.
        """
        result = value
        for parameters, switch in zip(self.values, switches):
            rounded = self.rounded.value(value, parameters[name], reader)
            result = self.editor.node("Where", [switch, rounded, result], before=reader, name="switched").out
        return result

    def second(self, node: Node, switches: Sequence[Value]) -> None:
        """The product with the weight and bias that integers stand for, and the choice between the two results."""
        uses, result = list(node.out.uses), node.out
        at = self.graph.position(node) + 1
        behind = self.graph.nodes[at] if at < len(self.graph.nodes) else None
        twin = self.rounded.twin(node, self.plan, {}, behind)
        on = switches[0]
        for switch in switches[1:]:
            on = self.editor.node("Or", [on, switch], before=behind, name="switched").out
        choice = self.editor.node("Where", [on, twin, result], before=behind, name="switched").out
        for use in uses:
            self.editor.set_input(use.node, use.index, choice)
        for index, output in enumerate(self.graph.outputs):
            if output is result:
                self.editor.set_output(self.graph, index, choice)
                self.editor.swap_names(choice, result)

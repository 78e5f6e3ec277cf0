"""A quantization that can be carried out several times, with other layers left in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphopt.driver.quantize.accuracy_control import Treatment
from graphopt.driver.quantize.overrides import Overrides
from graphopt.driver.quantize.report import LayerRow, ValueRow
from graphopt.driver.quantize.rows import layer_rows, notes, value_rows
from graphopt.driver.quantize.settings import Settings
from graphopt.ir.editor import clone
from graphopt.ir.graph import Array, Graph, Node
from graphopt.ir.verifier import verify
from graphopt.passes.precision.asked import asked_nodes
from graphopt.passes.quant.apply import apply_quantization
from graphopt.passes.quant.bias_correction import correct
from graphopt.passes.quant.bodies import Bodies
from graphopt.passes.quant.parameters import IntegerForm
from graphopt.passes.quant.placement import Left, Placement, place
from graphopt.passes.quant.plan import QuantPlan, plan_quantization
from graphopt.passes.quant.ranges import Range
from graphopt.passes.quant.roles import Role, role_of
from graphopt.rewrite.passes import PassContext


@dataclass(frozen=True)
class Quantized:
    """A graph in integers.

    Attributes:
        graph: with QuantizeLinear and DequantizeLinear.
        layers, values: what was done to nodes and values.
        notes: remarks on the whole.
        empty: nothing is in integers.
    """

    graph: Graph
    layers: tuple[LayerRow, ...]
    values: tuple[ValueRow, ...]
    notes: tuple[str, ...]
    empty: bool


@dataclass(frozen=True)
class Recipe:
    """How a graph is quantized.

    Attributes:
        graph: in float; never changed.
        how: what holds for the whole model.
        include, exclude: nodes and operators that a user named.
        overrides: what a user wants otherwise for some nodes and values.
        wide_ranges: of values that are stored in 16 bits, where they are others than in 8.
        in_bodies: whether branches and loops are quantized too.
        unseen: names of values in branches and loops that no data went through: all there stays in float.
        errors: by the name of a product, what is taken from its bias once it is quantized, for each output channel.
    """

    graph: Graph
    how: Settings
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overrides: Overrides = field(default_factory=Overrides)
    wide_ranges: Mapping[str, Range] = field(default_factory=dict)
    in_bodies: bool = True
    unseen: frozenset[str] = frozenset()
    errors: Mapping[str, Array] = field(default_factory=dict)

    def place(self, graph: Graph | None = None, treatment: Treatment | None = None) -> Placement:
        """Which nodes of the graph, or of a copy of it, compute on integers."""
        graph = self.graph if graph is None else graph
        asked = self.asked(graph)
        for node in graph.walk():
            if treatment is not None and node.name in treatment.in_float:
                asked.setdefault(node, Left("accuracy", treatment.in_float[node.name]))
        for node in self._unseen_nodes(graph):
            asked.setdefault(node, Left("rule", "no calibration data goes through the branch or loop that it is in"))
        return place(graph, asked, self.how.runtime, in_bodies=self.in_bodies)

    def plan(
        self, ranges: Mapping[str, Range], treatment: Treatment | None = None, activations: IntegerForm | None = None
    ) -> QuantPlan:
        """What would be stored, for a copy of the graph.

        Args:
            ranges: of all values that need one.
            treatment: of layers.
            activations: how all of them are stored, instead of as the settings say.
        """
        work = clone(self.graph)
        placement = self.place(work, treatment)
        if self.errors:
            editor = PassContext(pass_name="quantize").editor(work)
            for node in placement.weights:
                if node.name in self.errors:
                    correct(editor, node, self.errors[node.name])
            placement = self.place(work, treatment)  # biases are other constants now
        resolved = self.overrides.resolve(placement, self.how, strict=treatment is None)
        forms = resolved.forms if activations is None else {}
        for node in placement.roles:
            if treatment is not None and node.name in treatment.wide:
                forms.update({value.name: self.how.wide for _, value in placement.operands(node)})
        return plan_quantization(
            placement, ranges, activations or self.how.activations, self.how.weights, per_channel=self.how.per_channel,
            forms=forms, per_channel_of=resolved.per_channel, wide_ranges=self.wide_ranges,
        )  # fmt: skip

    def carry_out(self, ranges: Mapping[str, Range], treatment: Treatment | None = None) -> Quantized:
        """A quantized copy of the graph."""
        plan = self.plan(ranges, treatment)
        layers, values, graph = layer_rows(plan), value_rows(plan), plan.placement.graph
        if treatment is not None:
            layers = tuple(_with_why(row, treatment) for row in layers)
        said, empty = tuple(notes(plan)), not plan.values
        apply_quantization(plan, PassContext(pass_name="quantize"))
        verify(graph)
        return Quantized(graph, layers, values, said, empty)

    def _unseen_nodes(self, graph: Graph) -> Iterator[Node]:
        """Nodes of the branches and loops that values are computed in which no data went through, and of what is inside of them."""
        if not self.unseen:
            return
        homes = Bodies(graph)
        dark = {
            homes.home(value)
            for node in graph.walk()
            for value in (*node.inputs, *node.outputs)
            if value is not None and value.name in self.unseen
        }
        for node in graph.walk():
            around = node.graph
            while around is not None and around not in dark:
                around = around.parent
            if around is not None:
                yield node

    def asked(self, graph: Graph) -> dict[Node, Left]:
        """Nodes that a user wants in float. What only moves values follows those around it, unless it is excluded itself."""
        found = {
            node: Left("asked", f"{item!r} is excluded")
            for node, item in asked_nodes(graph, self.exclude, "to leave in float").items()
        }
        for node, item in self.overrides.excluded(graph).items():
            found.setdefault(node, Left("asked", f"{item!r} is excluded by an override"))
        if self.include:
            wanted = asked_nodes(graph, self.include, "to quantize")
            for node in graph.walk():
                if node not in wanted and role_of(node) in (Role.PRODUCT, Role.COMPUTES):
                    found.setdefault(node, Left("asked", "it isn't among what is to be quantized"))
        return found


def _with_why(row: LayerRow, treatment: Treatment) -> LayerRow:
    """A row that says why data is in 16 bits."""
    if row.node not in treatment.wide or row.why:
        return row
    why = f"its data is in 16 bits: {treatment.wide[row.node]}"
    return replace(row, reason=f"{row.reason}; {why}" if row.reason else why)

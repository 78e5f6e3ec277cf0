"""Deciding which nodes of a graph compute in 16 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.graph import Graph, Node
from graphopt.passes.precision.asked import asked_nodes
from graphopt.passes.precision.exact_values import exact_values
from graphopt.passes.precision.narrow_form import NarrowForm, branch_form, is_float32, narrow_form
from graphopt.passes.precision.narrow_format import NarrowFormat
from graphopt.passes.precision.neighbours import Neighbours
from graphopt.passes.precision.operator_rules import kept_operator
from graphopt.passes.precision.plan import Io, Kept, PrecisionPlan
from graphopt.passes.precision.planned import as_planned, reads_or_makes_float32, require_planned
from graphopt.passes.precision.ranges import beyond_range, rounded_constants
from graphopt.passes.precision.sources import narrow_source
from graphopt.passes.precision.statistics import statistics_readers


def plan_precision(
    graph: Graph,
    form: NarrowFormat,
    *,
    io: Io = "keep",
    keep: Sequence[str] = (),
    more: Mapping[str, Kept] | None = None,
    max_opset: int | None = None,
    planned: Mapping[str, str] | None = None,
) -> PrecisionPlan:
    """What to do to a graph. Nodes that neither read nor make float32 are in neither list of the plan.

    Args:
        form: the 16-bit format.
        io: whether inputs and outputs keep float32.
        keep: nodes and operators that stay in float32, see ``asked_nodes``.
        more: further nodes that stay, by name: by data or sensitivity.
        max_opset: operators without a 16-bit form up to this opset stay.
        planned: what nodes are to be in, by name: a type, whatever the rules and the neighbours are. ``keep`` and ``more``
            go before. Where they send nodes to float32 that were planned otherwise, nodes around these follow as they would
            have without a plan, but for those that only the plan has in 16 bits.

    Raises:
        UserError: ``keep`` names nothing that there is; ``planned`` names no node that reads or makes float32, or wants one in
            16 bits that ONNX has no such form of.
    """
    planned = planned or {}
    require_planned(graph, form, planned)
    decision = _Decision(graph, form, max_opset, planned)
    plan = decision.plan(
        io, {n: Kept("asked", f"{i!r} is to stay in float32") for n, i in asked_nodes(graph, keep).items()}, more
    )
    fixed = {node for node in plan.narrow if node.name in planned}
    if any(planned.get(node.name) == str(form) for node in plan.kept):
        as_written = decision.plan(io)
        Neighbours(as_written).settle()
        fixed &= set(as_written.kept)
    Neighbours(plan, fixed).settle()
    return plan


class _Decision:
    """What is decided on each node by itself, before its neighbours are looked at."""

    def __init__(self, graph: Graph, form: NarrowFormat, max_opset: int | None, planned: Mapping[str, str]) -> None:
        self.graph, self.form, self.max_opset, self.planned = graph, form, max_opset, planned
        self.large = beyond_range(graph, form)
        self.exact = {**statistics_readers(graph), **exact_values(graph)}
        self.decided: dict[Node, NarrowForm | Kept] = {}

    def plan(
        self, io: Io, asked: Mapping[Node, Kept] | None = None, more: Mapping[str, Kept] | None = None
    ) -> PrecisionPlan:
        """A plan in which some nodes stay in float32 for other reasons than those of the rules."""
        plan = PrecisionPlan(self.graph, self.form, io)
        for node in self.graph.walk():
            if not reads_or_makes_float32(node, self.form):
                continue
            found = (asked or {}).get(node) or (more or {}).get(node.name) or self.of(node)
            if isinstance(found, Kept):
                plan.kept[node] = found
            else:
                plan.narrow[node] = found
        return plan

    def of(self, node: Node) -> NarrowForm | Kept:
        if node not in self.decided:
            found, entry = self.by_rule(node), self.planned.get(node.name)
            if entry is not None:
                found = as_planned(node, self.form, self.max_opset, found, entry)
            self.decided[node] = found
        return self.decided[node]

    def by_rule(self, node: Node) -> NarrowForm | Kept:
        reason = kept_operator(node) or self.large.get(node) or self.exact.get(node)
        if reason is None and not node.subgraphs:
            reason = rounded_constants(node, self.form)
        if reason is not None:
            return Kept("rule", reason)
        return _form(node, self.form, self.max_opset) or _no_form(node, self.form, self.max_opset)


def _form(node: Node, form: NarrowFormat, max_opset: int | None) -> NarrowForm | None:
    if node.op == "If" and not node.domain:
        return branch_form(node)
    return narrow_source(node, form, max_opset) or narrow_form(node, form.dtype, max_opset)


def _no_form(node: Node, form: NarrowFormat, max_opset: int | None) -> Kept:
    if not any(is_float32(v) for v in node.inputs):
        return Kept("rule", f"it makes float32 of other types, and {form} would round the numbers")
    limit = "" if max_opset is None else f" up to opset {max_opset}"
    return Kept("schema", f"{node.qualified_op} has no form in {form}{limit} with these operands")

"""Deciding which nodes of a graph compute in 16 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.graph import Graph, Node
from graphopt.passes.precision.asked import asked_nodes
from graphopt.passes.precision.exact_values import exact_values
from graphopt.passes.precision.narrow_form import NarrowForm, branch_form, is_float32, narrow_form, touches_float32
from graphopt.passes.precision.narrow_format import NarrowFormat
from graphopt.passes.precision.neighbours import Neighbours, cast_from, casts_to
from graphopt.passes.precision.operator_rules import kept_operator
from graphopt.passes.precision.plan import Io, Kept, PrecisionPlan
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
) -> PrecisionPlan:
    """What to do to a graph. Nodes that neither read nor make float32 are in neither list of the plan.

    Args:
        form: the 16-bit format.
        io: whether inputs and outputs keep float32.
        keep: nodes and operators that stay in float32, see ``asked_nodes``.
        more: further nodes that stay, by name: by data or sensitivity.
        max_opset: operators without a 16-bit form up to this opset stay.

    Raises:
        UserError: ``keep`` names nothing that there is.
    """
    plan = PrecisionPlan(graph, form, io)
    asked, large = asked_nodes(graph, keep), beyond_range(graph, form)
    exact = {**statistics_readers(graph), **exact_values(graph)}
    for node in graph.walk():
        if not touches_float32(node) or _is_settled_cast(node, form):
            continue
        why = _why_kept(node, form, asked, exact, large, more or {})
        narrow = None if why is not None else _form(node, form, max_opset)
        if narrow is not None:
            plan.narrow[node] = narrow
        else:
            plan.kept[node] = why or _no_form(node, form, max_opset)
    Neighbours(plan).settle()
    return plan


def _is_settled_cast(node: Node, form: NarrowFormat) -> bool:
    """A Cast between float32 and the format is what a conversion puts there itself."""
    return cast_from(node, form.dtype) is not None or casts_to(node, form.dtype)


def _why_kept(
    node: Node,
    form: NarrowFormat,
    asked: Mapping[Node, str],
    exact: Mapping[Node, str],
    large: Mapping[Node, str],
    more: Mapping[str, Kept],
) -> Kept | None:
    if node in asked:
        return Kept("asked", f"{asked[node]!r} is to stay in float32")
    if node.name in more:
        return more[node.name]
    reason = kept_operator(node) or large.get(node) or exact.get(node)
    if reason is None and not node.subgraphs:
        reason = rounded_constants(node, form)
    return None if reason is None else Kept("rule", reason)


def _form(node: Node, form: NarrowFormat, max_opset: int | None) -> NarrowForm | None:
    if node.op == "If" and not node.domain:
        return branch_form(node)
    return narrow_source(node, form, max_opset) or narrow_form(node, form.dtype, max_opset)


def _no_form(node: Node, form: NarrowFormat, max_opset: int | None) -> Kept:
    if not any(is_float32(v) for v in node.inputs):
        return Kept("rule", f"it makes float32 of other types, and {form} would round the numbers")
    limit = "" if max_opset is None else f" up to opset {max_opset}"
    return Kept("schema", f"{node.qualified_op} has no form in {form}{limit} with these operands")

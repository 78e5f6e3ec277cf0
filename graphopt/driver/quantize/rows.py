"""Rows of the report: what a plan of quantization does to every node and value."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.driver.quantize.report import LayerRow, ValueRow
from graphopt.ir.graph import Graph, Node
from graphopt.passes.quant.plan import QuantPlan
from graphopt.passes.quant.roles import Role, role_of


def layer_rows(plan: QuantPlan) -> tuple[LayerRow, ...]:
    """One row a node that computes on integers or could, in order."""
    placement = plan.placement
    rows = []
    for node in placement.graph.walk():
        if node in placement.left:
            left = placement.left[node]
            rows.append(LayerRow(node.name, node.qualified_op, "float32", left.kind, left.reason))
        elif node in placement.roles:
            rows.append(LayerRow(node.name, node.qualified_op, _stored(plan, node), reason=_remark(plan, node)))
    return tuple(rows)


def value_rows(plan: QuantPlan) -> tuple[ValueRow, ...]:
    """One row a value in integers."""
    return tuple(
        ValueRow(
            value.name, plan.ranges[value].low, plan.ranges[value].high, float(plan.values[value].scale),
            int(plan.values[value].zero_point), len(group),
        )
        for group in plan.placement.groups
        for value in group
    )  # fmt: skip


def notes(plan: QuantPlan) -> Iterator[str]:
    """Remarks on the whole."""
    graph = plan.placement.graph
    if not plan.values:
        yield "nothing was quantized: there is no product that may be"
    left = [
        node for node, why in plan.placement.left.items()
        if node.graph is not graph and why.kind == "rule" and role_of(node) is Role.PRODUCT
    ]  # fmt: skip
    if left:
        names = ", ".join(node.name for node in left[:3]) + (f" and {len(left) - 3} more" if left[3:] else "")
        yield f"products of branches and loops stay in float: {names} ({plan.placement.left[left[0]].reason})"
    empty = [v.name for v in plan.values if plan.ranges[v].low == plan.ranges[v].high and not v.is_const]
    if empty:
        yield f"%{empty[0]} was zero on all data" + (f", as were {len(empty) - 1} more" if empty[1:] else "")


def constant_bytes(graph: Graph) -> int:
    """Bytes of all constants."""
    return sum(v.data.nbytes for v in graph.constants() if v.data is not None)


def _stored(plan: QuantPlan, node: Node) -> str:
    names = {str(plan.values[v].dtype) for _, v in plan.placement.operands(node)}
    data = " x ".join(sorted(names)) or "in registers"
    weight = plan.weights.get(node)
    if weight is None:
        return data
    scales = f"{weight.parameters.scale.size} scales" if weight.axis is not None else "1 scale"
    return f"{data} x {weight.parameters.dtype} weights ({scales})"


def _remark(plan: QuantPlan, node: Node) -> str:
    weight = plan.weights.get(node)
    remarks = []
    if weight is not None and weight.raised:
        remarks.append(f"{weight.raised} scales of %{weight.value.name} were raised for the bias to fit into int32")
    biased = plan.placement.runtime.integer_biases and weight is not None and node.input(2) is not None
    if biased and node not in plan.biases:
        remarks.append("its bias stays in float: it is no constant of a number a channel")
    return "; ".join(remarks)

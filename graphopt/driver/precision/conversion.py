"""A conversion that can be carried out several times, with more and more nodes kept in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.driver.precision.report import NodeRow
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from graphopt.ir.verifier import verify
from graphopt.passes.precision.apply import apply_precision
from graphopt.passes.precision.cast_floats import cast_pass, remark
from graphopt.passes.precision.decide import plan_precision
from graphopt.passes.precision.narrow_format import NarrowFormat
from graphopt.passes.precision.plan import Io, Kept, PrecisionPlan
from graphopt.rewrite.passes import PassContext

if TYPE_CHECKING:
    from graphopt.rewrite.remarks import Remarks


@dataclass(frozen=True)
class Converted:
    """A graph in 16 bits.

    Attributes:
        graph: converted.
        rows: what was decided on every node that reads or makes floats.
        casts: how many nodes it has more than before.
    """

    graph: Graph
    rows: tuple[NodeRow, ...]
    casts: int


@dataclass(frozen=True)
class Conversion:
    """What to convert and how.

    Attributes:
        graph: in float32; never changed.
        form: the 16-bit format.
        io: whether inputs and outputs keep float32.
        keep: what the user wants to stay.
        max_opset: the latest opset whose operators are made use of.
        planned: what nodes are to be in, by name; those that are not in it are decided by rule.
    """

    graph: Graph
    form: NarrowFormat
    io: Io
    keep: tuple[str, ...]
    max_opset: int | None
    planned: Mapping[str, str] = field(default_factory=dict)

    def plan(self, more: Mapping[str, Kept]) -> PrecisionPlan:
        """What would be done to ``graph``, with further nodes kept."""
        return self._plan(self.graph, more)

    def carry_out(self, more: Mapping[str, Kept], remarks: Remarks | None = None) -> Converted:
        """A converted copy, with further nodes kept.

        Args:
            remarks: receives what was decided on every node.
        """
        work = clone(self.graph)
        plan = self._plan(work, more)
        rows, before = node_rows(plan), sum(1 for _ in work.walk())
        ctx = PassContext(max_opset=self.max_opset, pass_name=cast_pass(self.form.precision).name)
        if remarks is not None:
            ctx.remarks = remarks
        remark(plan, ctx)
        apply_precision(plan, ctx)
        verify(work)
        return Converted(work, rows, sum(1 for _ in work.walk()) - before)

    def _plan(self, graph: Graph, more: Mapping[str, Kept]) -> PrecisionPlan:
        return plan_precision(
            graph, self.form, io=self.io, keep=self.keep, more=more, max_opset=self.max_opset, planned=self.planned
        )


def node_rows(plan: PrecisionPlan) -> tuple[NodeRow, ...]:
    """What was decided on every node that reads or makes floats, before the plan is carried out."""
    rows = []
    for node in plan.graph.walk():
        if node in plan.narrow:
            rows.append(NodeRow(node.name, node.qualified_op, str(plan.format)))
        elif node in plan.kept:
            why = plan.kept[node]
            rows.append(NodeRow(node.name, node.qualified_op, "float32", why.kind, why.reason))
    return tuple(rows)

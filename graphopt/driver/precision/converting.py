"""From a float32 model to one in 16 bits: what ``graphopt convert`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import EXPORT_MAX_OPSET, optimize
from graphopt.driver.precision.report import ConversionReport, NodeRow
from graphopt.errors import UserError, did_you_mean
from graphopt.ir.editor import clone
from graphopt.ir.export_opset import EXPORT_OPSET_FLOOR
from graphopt.ir.graph import Graph
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.ir.verifier import verify
from graphopt.passes.precision.apply import apply_precision
from graphopt.passes.precision.decide import plan_precision
from graphopt.passes.precision.narrow_form import touches_float32
from graphopt.passes.precision.narrow_format import format_of
from graphopt.passes.precision.plan import Io, PrecisionPlan
from graphopt.rewrite.passes import PassContext

if TYPE_CHECKING:
    from graphopt.ir.onnx_load import ModelSource

_IO = ("keep", "cast")


def convert(
    src: ModelSource | Graph,
    precision: str,
    *,
    keep: Sequence[str] = (),
    io: Io = "keep",
    level: int = DEFAULT_LEVEL,
    shapes: Mapping[str, str | Sequence[int | str]] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> tuple[Graph, ConversionReport]:
    """A graph that stores and computes in 16 bits, and what that did. ``graphopt.export_onnx`` writes it as plain ONNX.

    What range or rounding would spoil stays in float32: see ``graphopt.passes.precision``.

    Args:
        src: path, bytes, ModelProto or an imported graph. It is never changed.
        precision: ``"fp16"`` or ``"bf16"``.
        keep: names of nodes or operators that stay in float32; ``*`` and ``?`` stand for any letters.
        io: ``"keep"``: inputs and outputs stay float32; ``"cast"``: they are in 16 bits too.
        level: optimise as ``graphopt.optimize`` does first, so that normalisations go into weights before these are rounded;
            0 converts the graph as it is.
        shapes, values, strict: as for ``graphopt.compile``, when ``src`` is no graph.

    Raises:
        UserError: unknown precision, or ``keep`` names nothing that there is.
    """
    form = format_of(precision)
    if io not in _IO:
        raise UserError(f"io is {io!r}", code="bad-option", hint=did_you_mean(str(io), _IO) or "keep or cast")
    original = src if isinstance(src, Graph) else import_onnx(src, shapes=shapes, values=values, strict=strict)
    graph = optimize(original, level)
    limit = max(graph.opset, EXPORT_MAX_OPSET, EXPORT_OPSET_FLOOR)
    converted = clone(graph)
    plan = plan_precision(converted, form, io=io, keep=keep, max_opset=limit)
    before = len(list(converted.walk()))
    rows = node_rows(plan)
    apply_precision(plan, PassContext(max_opset=limit))
    verify(converted)
    report = ConversionReport(
        source=graph.source,
        precision=precision,
        io=io,
        nodes=rows,
        casts=len(list(converted.walk())) - before,
        bytes_before=constant_bytes(original),
        bytes_after=constant_bytes(converted),
    )
    return converted, report


def node_rows(plan: PrecisionPlan) -> tuple[NodeRow, ...]:
    """What was decided on every node that reads or makes floats, before the plan is carried out."""
    rows = []
    for node in plan.graph.walk():
        if node in plan.narrow:
            rows.append(NodeRow(node.name, node.qualified_op, str(plan.format)))
        elif node in plan.kept and touches_float32(node):
            why = plan.kept[node]
            rows.append(NodeRow(node.name, node.qualified_op, "float32", why.kind, why.reason))
    return tuple(rows)


def constant_bytes(graph: Graph) -> int:
    """Bytes of all constants."""
    return sum(v.data.nbytes for v in graph.constants() if v.data is not None)

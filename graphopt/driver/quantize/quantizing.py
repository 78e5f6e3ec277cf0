"""From a float model to one in integers: what ``graphopt quantize`` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import optimize
from graphopt.driver.precision.report import OutputRow
from graphopt.driver.quantize.range_table import RangeTable
from graphopt.driver.quantize.report import LayerRow, QuantizationReport, ValueRow
from graphopt.errors import UserError
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph, Node
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.ir.verifier import verify
from graphopt.passes.precision.asked import asked_nodes
from graphopt.passes.quant.apply import apply_quantization
from graphopt.passes.quant.parameters import IntegerForm, form_of
from graphopt.passes.quant.placement import Left, Placement, place
from graphopt.passes.quant.plan import QuantPlan, calibrated_values, plan_quantization
from graphopt.passes.quant.ranges import PERCENTILE, Method, Range, method_of, range_of
from graphopt.passes.quant.roles import Role, role_of
from graphopt.rewrite.passes import PassContext

if TYPE_CHECKING:
    from graphopt.driver.calibration import CompiledRunner, Feed
    from graphopt.driver.calibration_source import Source
    from graphopt.ir.onnx_load import ModelSource

COMPARED_FEEDS = 8
"""Results are compared with float on so many feeds at most,"""
COMPARED_BYTES = 64 << 20
"""and on so many bytes of them, because these are kept: the first feeds."""
PORTIONS = 64
"""So many portions of inner values stay compiled."""


def quantize(
    src: ModelSource | Graph,
    calibration: Source | None = None,
    *,
    method: str = "minmax",
    percentile: float = PERCENTILE,
    per_channel: bool = True,
    activations: str = "u8",
    symmetric: bool | None = None,
    weights: str = "s8",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    table: RangeTable | str | os.PathLike[str] | None = None,
    compare: bool = True,
    level: int = DEFAULT_LEVEL,
    shapes: Mapping[str, str | Sequence[int | str]] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    threads: int | None = None,
) -> tuple[Graph, QuantizationReport]:
    """A graph that stores weights and activations in integers, and what that did. ``graphopt.export_onnx`` writes it as plain ONNX
    with QuantizeLinear and DequantizeLinear.

    Args:
        src: path, bytes, ModelProto or an imported graph. It is never changed.
        calibration: inputs like those that the model will see, see ``graphopt.driver.calibration_source``. They are gone through
            once, and no more than a batch is in memory. The float model is run on them by graphopt itself.
        method: how ranges are chosen: ``minmax``, ``average`` (of the samples' bounds), ``percentile``, ``entropy`` or ``mse``.
        percentile: part of the numbers that a range by percentile holds, in percent.
        per_channel: a scale for each output channel of a weight, instead of one for the whole.
        activations: ``u8``, ``s8``, ``u16`` or ``s16``; 16 bits need opset 21.
        symmetric: whether zero is the middle of the activations' range; by default of signed ones.
        weights: ``s8``.
        include: names or operators of products and computations that are quantized, ``*`` and ``?`` allowed; all by default.
        exclude: those that stay in float, whatever ``include`` says.
        table: ranges that were written before (``report.table.save(path)``) or the file; what it has needs no data.
        compare: run the quantized graph too, on the first feeds, for the SQNR of every layer and output.
        level: optimise as ``graphopt.optimize`` does first, so that normalisations go into weights before these are rounded.
        shapes, values, strict: as for ``graphopt.compile``, when ``src`` is no graph.
        threads: CPU threads that data is run with.

    Raises:
        UserError: unknown method, form, node or operator; neither data nor a table, an empty set, wrong names or shapes, or a table
            that lacks a value or has one that there isn't.
        InputError: an activation is NaN or infinite on the data; it is named.
        UnsupportedOpError: an operator that isn't compiled.
    """
    how = _settings(method, percentile, per_channel, activations, symmetric, weights)
    known = RangeTable.load(table) if isinstance(table, (str, os.PathLike)) else table
    original = src if isinstance(src, Graph) else import_onnx(src, shapes=shapes, values=values, strict=strict)
    graph = optimize(original, level)
    if known is not None:
        known.require_fit(graph, level)
    asked = _asked(graph, include, exclude)
    data = _Data(graph, calibration, threads, compare)
    ranges = data.ranges(place(graph, asked), how, known)
    work = clone(graph)
    plan = plan_quantization(
        place(work, _asked(work, include, exclude)), ranges, how.activations, how.weights, per_channel=per_channel
    )
    layers, rows = _layer_rows(plan), _value_rows(plan)
    apply_quantization(plan, PassContext(pass_name="quantize"))
    verify(work)
    used = RangeTable(ranges, method if known is None else known.method, level, _version())
    report = QuantizationReport(
        original.source, used.method, str(how.activations), f"{how.weights}{' per channel' if per_channel else ''}",
        layers, rows, _bytes(original), _bytes(work), used, notes=tuple(_notes(plan)),
    )  # fmt: skip
    return work, data.compared(work, report) if plan.values else report


@dataclass(frozen=True)
class _Settings:
    method: Method
    percentile: float
    activations: IntegerForm
    weights: IntegerForm


def _settings(
    method: str, percentile: float, per_channel: bool, activations: str, symmetric: bool | None, weights: str
) -> _Settings:
    if not 50 < percentile <= 100:
        raise UserError(
            f"a range can't hold {percentile} percent of the numbers", code="bad-option", hint=f"try {PERCENTILE}"
        )
    if weights != "s8":
        raise UserError(f"weights can't be stored as {weights!r}", code="bad-option", hint="weights are s8")
    return _Settings(method_of(method), percentile, form_of(activations, symmetric), form_of(weights, True))


def _asked(graph: Graph, include: Sequence[str], exclude: Sequence[str]) -> dict[Node, Left]:
    """Nodes that a user wants in float. What only moves values follows those around it, unless it is excluded itself."""
    found = {
        node: Left("asked", f"{item!r} is excluded")
        for node, item in asked_nodes(graph, exclude, "to leave in float").items()
    }
    if include:
        wanted = asked_nodes(graph, include, "to quantize")
        for node in graph.nodes:
            if node not in wanted and role_of(node) in (Role.PRODUCT, Role.COMPUTES):
                found.setdefault(node, Left("asked", "it isn't among what is to be quantized"))
    return found


class _Data:
    """Calibration data that goes by once: statistics are taken from all of it, and the first feeds are kept."""

    def __init__(self, graph: Graph, source: Source | None, threads: int | None, keep: bool) -> None:
        self.graph, self.source, self.threads, self.keep = graph, source, threads, keep
        self.kept: list[Feed] = []
        self.count = 0
        self._bytes = 0
        self._runner: CompiledRunner | None = None

    @property
    def runner(self) -> CompiledRunner:
        from graphopt.driver.calibration import CompiledRunner

        if self._runner is None:
            self._runner = CompiledRunner(threads=self.threads, exact=True, cached=PORTIONS)
        return self._runner

    def ranges(self, placement: Placement, how: _Settings, known: RangeTable | None) -> dict[str, Range]:
        """Ranges of what a placement needs, from a table as far as it has them."""
        from graphopt.driver.quantize.value_statistics import gather_statistics

        needed = calibrated_values(placement)
        found = {v.name: known.ranges[v.name] for v in needed if v.name in known.ranges} if known is not None else {}
        missing = [v for v in needed if v.name not in found]
        if self.source is None:
            if missing:
                raise _no_data(known, [v.name for v in missing])
            return found
        if missing:
            statistics = gather_statistics(
                self.graph, missing, self.feeds(), self.runner, histogram=how.method.histogram
            )
            measured = {n: range_of(s, how.activations, how.method, how.percentile) for n, s in statistics.items()}
            return {v.name: found[v.name] if v.name in found else measured[v.name] for v in needed}
        for _ in self.feeds():
            if not self.keep or len(self.kept) == COMPARED_FEEDS or self._bytes >= COMPARED_BYTES:
                break
        return found

    def feeds(self) -> Iterator[Feed]:
        from graphopt.driver.calibration import calibration_feeds
        from graphopt.driver.compiling import signature_of

        assert self.source is not None
        for feed in calibration_feeds(self.source, signature_of(self.graph)):
            if self.keep and len(self.kept) < COMPARED_FEEDS and (not self.kept or self._bytes < COMPARED_BYTES):
                self.kept.append(feed)
                self._bytes += sum(array.nbytes for array in feed.values())
            self.count += 1
            yield feed

    def compared(self, quantized: Graph, report: QuantizationReport) -> QuantizationReport:
        """The report with how far layers and outputs are from float on the feeds that were kept."""
        if not self.kept:
            return report
        from graphopt.driver.precision.noise import layer_noise, output_noise, outputs_of

        want = [outputs_of(self.graph, feed, self.runner) for feed in self.kept]
        outputs = output_noise(want, quantized, self.kept, self.runner)
        noise = layer_noise(self.graph, quantized, self.kept, self.runner)
        layers = tuple(
            replace(row, sqnr_db=noise[row.node].sqnr_db) if row.node in noise else row for row in report.layers
        )
        shown = len(self.kept)
        of = f"the first {shown} of {self.count}" if shown < self.count else str(shown)
        return replace(
            report, layers=layers, data=f"{of} feed{'' if self.count == 1 else 's'} of calibration data",
            outputs=tuple(OutputRow(name, n.sqnr_db, n.error) for name, n in outputs.items()),
        )  # fmt: skip


def _no_data(known: RangeTable | None, missing: Sequence[str]) -> UserError:
    if known is None:
        return UserError(
            "ranges of activations can't be chosen without calibration data", code="needs-data",
            hint="pass inputs like those that the model will see (calibration=, --calib DATA), or a table of ranges",
        )  # fmt: skip
    return UserError(
        f"the table has no range for %{missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
        code="plan-does-not-fit", hint="add it, or pass calibration data as well (calibration=, --calib DATA)",
    )  # fmt: skip


# -- what the report says ---------------------------------------------------------------------------------------------
def _layer_rows(plan: QuantPlan) -> tuple[LayerRow, ...]:
    placement = plan.placement
    rows = []
    for node in placement.graph.nodes:
        if node in placement.left:
            left = placement.left[node]
            rows.append(LayerRow(node.name, node.qualified_op, "float32", left.kind, left.reason))
        elif node in placement.roles:
            rows.append(LayerRow(node.name, node.qualified_op, _stored(plan, node), reason=_remark(plan, node)))
    return tuple(rows)


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
    if weight is not None and node.input(2) is not None and node not in plan.biases:
        remarks.append("its bias stays in float: it is no constant of a number a channel")
    return "; ".join(remarks)


def _value_rows(plan: QuantPlan) -> tuple[ValueRow, ...]:
    return tuple(
        ValueRow(
            value.name, plan.ranges[value].low, plan.ranges[value].high, float(plan.values[value].scale),
            int(plan.values[value].zero_point), len(group),
        )
        for group in plan.placement.groups
        for value in group
    )  # fmt: skip


def _notes(plan: QuantPlan) -> Iterator[str]:
    graph = plan.placement.graph
    if not plan.values:
        yield "nothing was quantized: the graph has no products that may be"
    hidden = sum(1 for node in graph.walk() if role_of(node) is Role.PRODUCT) - sum(
        1 for node in graph.nodes if role_of(node) is Role.PRODUCT
    )
    if hidden:
        yield f"{hidden} products in branches and loops stay in float: data doesn't show what they compute"
    empty = [v.name for v in plan.values if plan.ranges[v].low == plan.ranges[v].high and not v.is_const]
    if empty:
        yield f"%{empty[0]} was zero on all data" + (f", as were {len(empty) - 1} more" if empty[1:] else "")


def _bytes(graph: Graph) -> int:
    return sum(v.data.nbytes for v in graph.constants() if v.data is not None)


def _version() -> str:
    from importlib.metadata import version

    return version("graphopt")

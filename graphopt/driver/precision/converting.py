"""From a float32 model to one in 16 bits: what ``graphopt convert`` does."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphopt.driver.importing import import_onnx
from graphopt.driver.input_shapes import ShapeSpec
from graphopt.driver.plans import graph_digest
from graphopt.driver.precision.choices import conversion_of, require_model, settings_of
from graphopt.driver.precision.conversion import Conversion, Converted
from graphopt.driver.precision.report import ConversionReport, NodeRow, OutputRow
from graphopt.errors import UserError
from graphopt.ir.graph import Array, Graph
from graphopt.ir.precision_choices import precision_choices
from graphopt.passes.precision.plan import Io, Kept

if TYPE_CHECKING:
    from graphopt.driver.calibration_source import Source
    from graphopt.ir.onnx_load import ModelSource
    from graphopt.ir.precision_choices import PrecisionChoices

COMPARED_FEEDS = 8
"""Results are compared with float32 on so many feeds at most."""


def convert(
    src: ModelSource | Graph,
    precision: str | None = None,
    *,
    plan: PrecisionChoices | str | os.PathLike[str] | None = None,
    keep: Sequence[str] = (),
    io: Io | None = None,
    calibration: Source | None = None,
    max_error: float | None = None,
    level: int | None = None,
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    threads: int | None = None,
    seed: int = 0,
) -> tuple[Graph, ConversionReport]:
    """A graph that stores and computes in 16 bits, and what that did. ``graphopt.export_onnx`` writes it as plain ONNX.

    What range or rounding would spoil stays in float32: see ``graphopt.passes.precision``.

    Args:
        src: path, bytes, ModelProto or an imported graph. It is never changed.
        precision: ``"fp16"`` or ``"bf16"``; a plan says it as well.
        plan: what nodes compute in, or the file that holds it (``report.plan.save(path)`` writes one). Nodes that it doesn't name
            are decided by rule.
        keep: names of nodes or operators that stay in float32 whatever the plan says; ``*`` and ``?`` stand for any letters.
        io: ``"keep"``: inputs and outputs stay float32; ``"cast"``: they are in 16 bits too. By default as the plan says, else
            ``"keep"``.
        calibration: inputs like those that the model will see, as for ``graphopt.prune``. Results are compared node by node.
            Without a plan nodes stay in float32 whose operands or results leave the format's range on them, or mostly vanish in it.
        max_error: the largest relative L2 error of any output against float32 on these inputs (without, on random ones):
            the most sensitive nodes go back to float32 until it holds.
        level: optimise as ``graphopt.optimize`` does first, so that normalisations go into weights before these are rounded;
            0 converts the graph as it is. By default as the plan says, else 2.
        shapes, values, strict: as for ``graphopt.compile``, when ``src`` is no graph.
        threads: CPU threads that data is run with.
        seed: of random inputs.

    Raises:
        UserError: unknown precision, or none; a plan that doesn't fit, with the node and why; ``keep`` names nothing that there
            is, calibration data with wrong names, shapes or NaN, or an error that can't be met.
        UnsupportedOpError: with data, an operator that isn't compiled.
    """
    settings = settings_of(None if plan is None else precision_choices(plan), precision, io, level)
    if max_error is not None and not (math.isfinite(max_error) and max_error > 0):
        raise UserError(
            f"a largest error of {max_error} can't be met", code="bad-option", hint="give one above 0, such as 0.01"
        )
    original = src if isinstance(src, Graph) else import_onnx(src, shapes=shapes, values=values, strict=strict)
    model = graph_digest(original)
    require_model(settings.choices, model)
    conversion = conversion_of(original, settings, keep)
    report = ConversionReport(
        original.source, settings.form.precision, settings.io, nodes=(), casts=0, bytes_before=constant_bytes(original),
        bytes_after=0, max_error=max_error, level=settings.level, model=model,
    )  # fmt: skip
    if calibration is None and max_error is None:
        converted = conversion.carry_out({})
    else:
        by_data = plan is None
        converted, report = _with_data(conversion, report, calibration, threads, seed, keep_by_data=by_data)
    nodes = report.nodes or converted.rows
    return converted.graph, replace(
        report, nodes=nodes, casts=converted.casts, bytes_after=constant_bytes(converted.graph)
    )


def _with_data(
    conversion: Conversion, report: ConversionReport, calibration: Source | None, threads: int | None, seed: int, *,
    keep_by_data: bool,
) -> tuple[Converted, ConversionReport]:  # fmt: skip
    """The conversion with what data says, and the report with how far results moved."""
    from graphopt.driver.calibration import CompiledRunner
    from graphopt.driver.precision.noise import layer_noise, output_noise, outputs_of
    from graphopt.driver.precision.sensitivity import kept_for_error
    from graphopt.driver.precision.value_ranges import kept_by_data, value_ranges

    graph = conversion.graph
    feeds, data = _feeds(graph, calibration, seed)
    runner = CompiledRunner(threads=threads, exact=True)
    kept: dict[str, Kept] = {}
    if calibration is not None and keep_by_data:
        plan = conversion.plan({})
        kept = kept_by_data(plan, value_ranges(plan, feeds, runner))
    compared = feeds[-COMPARED_FEEDS:]
    if report.max_error is not None:
        kept = kept_for_error(conversion, kept, compared, runner, report.max_error)
    converted = conversion.carry_out(kept)
    want = [outputs_of(graph, feed, runner) for feed in compared]
    outputs = output_noise(want, converted.graph, compared, runner)
    layers = layer_noise(graph, converted.graph, compared, runner) if calibration is not None else {}
    rows = tuple(
        replace(row, sqnr_db=layers[row.node].sqnr_db) if row.node in layers else row for row in converted.rows
    )
    return converted, replace(
        report, nodes=rows, data=data, notes=tuple(_notes(conversion.graph, rows)),
        outputs=tuple(OutputRow(name, noise.sqnr_db, noise.error) for name, noise in outputs.items()),
    )  # fmt: skip


def _feeds(graph: Graph, calibration: Source | None, seed: int) -> tuple[Sequence[Mapping[str, Array]], str]:
    """Inputs, and words for them."""
    from graphopt.driver.calibration import load_calibration
    from graphopt.driver.compiling import signature_of
    from graphopt.driver.random_inputs import random_inputs

    signature = signature_of(graph)
    if calibration is None:
        return [random_inputs(signature, seed)], f"random inputs, seed {seed}"
    feeds = load_calibration(calibration, signature)
    count, last = len(feeds), min(len(feeds), COMPARED_FEEDS)
    feed_count = "1 feed" if count == 1 else f"{count} feeds"
    return feeds, f"{feed_count} of calibration data" if last == count else f"the last {last} of {count} feeds"


def _notes(graph: Graph, rows: Sequence[NodeRow]) -> Iterator[str]:
    inner = {node.name for node in graph.walk()} - {node.name for node in graph.nodes}
    hidden = sum(1 for row in rows if row.node in inner)
    if hidden:
        yield f"{hidden} nodes in branches and loops were decided without data, which does not show what they compute"


def constant_bytes(graph: Graph) -> int:
    """Bytes of all constants."""
    return sum(v.data.nbytes for v in graph.constants() if v.data is not None)

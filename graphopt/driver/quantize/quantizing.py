"""From a float model to one in integers: what ``graphopt quantize`` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphopt.driver.importing import import_onnx
from graphopt.driver.input_shapes import ShapeSpec
from graphopt.driver.optimizing import optimize
from graphopt.driver.precision.noise import layer_noise, outputs_of
from graphopt.driver.precision.report import OutputRow
from graphopt.driver.quantize.accuracy_control import FallBack, Treatment, require_fall_back, treatment_for
from graphopt.driver.quantize.bias_errors import mean_errors
from graphopt.driver.quantize.data import CalibrationData
from graphopt.driver.quantize.dynamically import quantize_with_dynamic_ranges, require_dynamic
from graphopt.driver.quantize.goal import Asked, Goal, Metric, Outputs, noise_of
from graphopt.driver.quantize.overrides import OverrideSource, read_overrides
from graphopt.driver.quantize.range_choice import choose_ranges
from graphopt.driver.quantize.range_table import RangeTable
from graphopt.driver.quantize.recipe import Quantized, Recipe
from graphopt.driver.quantize.report import GoalRow, LayerRow, QuantizationReport
from graphopt.driver.quantize.rows import constant_bytes
from graphopt.driver.quantize.sensitivity import Sensitivity, SwitchedModel
from graphopt.driver.quantize.settings import require_form, settings_of
from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.passes.quant.equalize import Pair
from graphopt.passes.quant.equalize import equalize as equalize_graph
from graphopt.passes.quant.ranges import DEFAULT_METHOD, PERCENTILE, Range
from graphopt.rewrite.passes import PassContext

if TYPE_CHECKING:
    from graphopt.driver.calibration import Progress
    from graphopt.driver.calibration_source import Source
    from graphopt.ir.onnx_load import ModelSource


def quantize(
    src: ModelSource | Graph,
    calibration: Source | None = None,
    *,
    method: str = DEFAULT_METHOD,
    percentile: float = PERCENTILE,
    per_channel: bool = True,
    activations: str | None = None,
    symmetric: bool | None = None,
    weights: str = "s8",
    runtime: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    table: RangeTable | str | os.PathLike[str] | None = None,
    compare: bool = True,
    evaluation: Source | None = None,
    metric: Metric | None = None,
    max_drop: float | None = None,
    min_sqnr: float | None = None,
    fall_back: FallBack = "float",
    sensitivity: bool = False,
    overrides: OverrideSource | None = None,
    dynamic: bool = False,
    equalize: bool = False,
    correct_bias: bool = False,
    level: int = DEFAULT_LEVEL,
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Graph, QuantizationReport]:
    """A graph that stores weights and activations in integers, and what that did. ``graphopt.export_onnx`` writes it as plain ONNX
    with QuantizeLinear and DequantizeLinear.

    Args:
        src: path, bytes, ModelProto or an imported graph. It is never changed.
        calibration: inputs like those that the model will see, see ``graphopt.driver.calibration_source``. They are gone through
            once, and no more than a batch is in memory. The float model is run on them by graphopt itself.
        method: how ranges are chosen: ``mse`` (of the least squared error), ``minmax``, ``average`` (of the samples' bounds),
            ``percentile`` or ``entropy``.
        percentile: part of the numbers that a range by percentile holds, in percent.
        per_channel: a scale for each output channel of a weight, instead of one for the whole.
        activations: ``u8``, ``s8``, ``u16`` or ``s16``, by default ``u8`` or what the runtime takes; 16 bits need opset 21.
        symmetric: whether zero is the middle of the activations' range; by default of signed ones.
        weights: ``s8``.
        runtime: follow the rules of ``tensorrt``, ``onnxruntime`` or ``openvino``, so that it computes in integers what it can; see
            ``graphopt.passes.quant.runtimes``.
        include: names or operators of products and computations that are quantized, ``*`` and ``?`` allowed; all by default.
        exclude: those that stay in float, whatever ``include`` says.
        table: ranges that were written before (``report.table.save(path)``) or the file; what it has needs no data.
        compare: run the quantized graph too, on the first feeds, for the SQNR of every layer and output.
        evaluation: what results are compared on instead, in any form that calibration data has; all of it is in memory.
        metric: a function of outputs and feeds, both a sequence of arrays by name, that says how good outputs are; higher is
            better.
        max_drop: how much less than float's the metric may be. The layers that cost most go back to float until it holds.
        min_sqnr: the same for the signal-to-noise ratio of every output against float, in dB.
        fall_back: what these layers go back to: ``float``, or ``16``: data in 16 bits, and float where that isn't enough.
        sensitivity: measure what each layer costs by itself, also where nothing is asked of the results.
        overrides: what is otherwise for some nodes and values, as a JSON or TOML file or its entries, see
            ``graphopt.driver.quantize.overrides.Override``.
        dynamic: quantize products of matrices only, with ranges of data that are measured while the model runs: no calibration data
            is needed or taken, and nothing else that is about ranges. Branches and loops are quantized too.
        equalize: scale channels between two products so that both weights have ranges alike, which changes no result in float.
        correct_bias: take the mean error of every product on the data from its bias. The data is gone through once more for it.
        level: optimise as ``graphopt.optimize`` does first, so that normalisations go into weights before these are rounded.
        shapes, values, strict: as for ``graphopt.compile``, when ``src`` is no graph.
        threads: CPU threads that data is run with.
        progress: told how many feeds of calibration data went by, and what part that is of all, None where nobody knows.

    Raises:
        UserError: unknown method, form, node or operator; neither data nor a table, an empty set, wrong names or shapes, or a table
            that lacks a value or has one that there isn't; what is asked of the results can't be reached.
        InputError: an activation is NaN or infinite on the data; it is named.
        UnsupportedOpError: an operator that isn't compiled.
    """
    how = settings_of(method, percentile, per_channel, activations, symmetric, weights, runtime)
    asked = Asked(metric, max_drop, min_sqnr)
    require_fall_back(fall_back)
    if fall_back == "16":
        require_form(how.runtime, how.wide)
    known = RangeTable.load(table) if isinstance(table, (str, os.PathLike)) else table
    original = src if isinstance(src, Graph) else import_onnx(src, shapes=shapes, values=values, strict=strict)
    graph = optimize(original, level)
    pairs = equalize_graph(graph, PassContext(pass_name="quantize")) if equalize else []
    if known is not None:
        known.require_fit(graph, level)
    recipe = Recipe(graph, how, tuple(include), tuple(exclude), read_overrides(overrides))
    if dynamic:
        require_dynamic({
            "calibration data": calibration is not None, "a table of ranges": table is not None, "a largest drop": max_drop,
            "a least SQNR": min_sqnr, "sensitivity": sensitivity, "bias correction": correct_bias,
            "a method": method != DEFAULT_METHOD, "a runtime": runtime,
            "another form of activations": activations not in (None, "u8") or symmetric is not None,
            "an override": bool(recipe.overrides.entries),
        })  # fmt: skip
        made, told = quantize_with_dynamic_ranges(original, recipe, evaluation, asked, threads)
        return made, replace(told, notes=(*told.notes, *_equalized(pairs if equalize else None)))
    controlled = asked.limits or sensitivity
    recipe = replace(recipe, in_bodies=not controlled)
    data = CalibrationData(
        graph, calibration, evaluation, threads, compare=compare or controlled or metric is not None, again=correct_bias,
        progress=progress,
    )  # fmt: skip
    chosen = choose_ranges(recipe, data, known, all_possible=controlled, wide=fall_back == "16")
    recipe, ranges = replace(recipe, wide_ranges=chosen.wide, unseen=chosen.unseen), chosen.ranges
    if correct_bias:
        recipe = replace(recipe, errors=mean_errors(recipe.plan(ranges), data.again(), data.runner))
    report = QuantizationReport(
        original.source, method if known is None else known.method, str(how.activations),
        f"{how.weights}{' per channel' if per_channel else ''}", (), (), constant_bytes(original), 0, RangeTable({}),
    )  # fmt: skip
    if data.compared:
        found, report = _compared(recipe, data, ranges, report, asked, fall_back, measure=sensitivity)
    elif controlled:
        raise UserError(
            "what quantization costs can't be measured without data", code="needs-data",
            hint="pass calibration data (calibration=, --calib DATA), or data to compare on (evaluation=, --evaluate DATA)",
        )  # fmt: skip
    else:
        found = recipe.carry_out(ranges)
    return found.graph, replace(
        report, layers=report.layers or found.layers, values=found.values, bytes_after=constant_bytes(found.graph),
        table=RangeTable(ranges, report.method, level, _version()),
        notes=(*found.notes, *report.notes, *_equalized(pairs if equalize else None), *_corrected(recipe, data)),
    )  # fmt: skip


def _compared(
    recipe: Recipe, data: CalibrationData, ranges: Mapping[str, Range], report: QuantizationReport, asked: Asked,
    fall_back: FallBack, *, measure: bool,
) -> tuple[Quantized, QuantizationReport]:  # fmt: skip
    """The quantized graph that is as good as asked, and the report with how far layers and outputs are from float."""
    feeds, runner = data.compared, data.runner
    want = [outputs_of(recipe.graph, feed, runner) for feed in feeds]
    goal = Goal(asked, want, feeds)

    def outputs_with(treatment: Treatment) -> Outputs:
        graph = recipe.carry_out(ranges, treatment).graph
        return [outputs_of(graph, feed, runner) for feed in feeds]

    def switched() -> SwitchedModel:
        plans = [recipe.plan(ranges)]
        if fall_back == "16":
            plans.append(recipe.plan(ranges, activations=recipe.how.wide))
        return SwitchedModel(plans, feeds, runner)

    controlled = treatment_for(goal, switched, outputs_with, fall_back, measure=measure)
    found = recipe.carry_out(ranges, controlled.treatment)
    noise = layer_noise(recipe.graph, found.graph, feeds, runner)
    layers = tuple(
        _measured(row, noise[row.node].sqnr_db if row.node in noise else None, controlled.layers.get(row.node))
        for row in found.layers
    )
    treatment = controlled.treatment
    goal_row = GoalRow(
        asked.name, goal.float_score, asked.score(controlled.outputs, feeds), goal.words() if asked.limits else "",
        len(treatment.in_float), len(treatment.wide), len(controlled.layers),
    )  # fmt: skip
    return found, replace(
        report, layers=layers, data=data.words(), goal=goal_row if asked.limits or asked.metric else None,
        outputs=tuple(OutputRow(name, n.sqnr_db, n.error) for name, n in noise_of(want, controlled.outputs).items()),
        notes=("what is asked holds only with everything in float",) if found.empty and treatment.in_float else (),
    )  # fmt: skip


def _measured(row: LayerRow, sqnr_db: float | None, alone: Sensitivity | None) -> LayerRow:
    return replace(
        row, sqnr_db=sqnr_db, alone_db=None if alone is None else alone.sqnr_db,
        alone_with=0 if alone is None else alone.together - 1,
    )  # fmt: skip


def _equalized(pairs: Sequence[Pair] | None) -> Iterator[str]:
    """Which layers were equalised.

    Args:
        pairs: of them, None where nobody asked.
    """
    if pairs is not None:
        names = ", ".join(f"{pair.first.name} and {pair.second.name}" for pair in pairs[:3])
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        yield f"{len(pairs)} pairs of layers were equalised" + (f": {names}{more}" if pairs else "")


def _corrected(recipe: Recipe, data: CalibrationData) -> Iterator[str]:
    """How many biases were corrected, and on what."""
    if recipe.errors:
        on = "" if data.goes_again else ", on the first feeds, since the data goes by once"
        yield f"the biases of {len(recipe.errors)} layers were corrected{on}"


def _version() -> str:
    from importlib.metadata import version

    return version("graphopt")

"""Dynamic quantization of a model: what ``graphopt quantize --dynamic`` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.driver.precision.noise import outputs_of
from graphopt.driver.precision.report import OutputRow
from graphopt.driver.quantize.data import CalibrationData
from graphopt.driver.quantize.goal import Asked, Goal, noise_of
from graphopt.driver.quantize.range_table import RangeTable
from graphopt.driver.quantize.recipe import Recipe
from graphopt.driver.quantize.report import GoalRow, LayerRow, QuantizationReport
from graphopt.driver.quantize.rows import constant_bytes
from graphopt.errors import UserError
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from graphopt.ir.verifier import verify
from graphopt.passes.quant.dynamic import DynamicProduct, quantize_dynamically
from graphopt.rewrite.passes import PassContext

if TYPE_CHECKING:
    from graphopt.driver.calibration_source import Source

DYNAMIC = "dynamic"
"""The method that ranges are chosen by, in reports."""


def require_dynamic(given: dict[str, object]) -> None:
    """Refuse what goes with calibration only.

    Args:
        given: options by name, those that a user left alone as None or False.

    Raises:
        UserError: names the first.
    """
    name = next((name for name, value in given.items() if value not in (None, False)), None)
    if name is not None:
        raise UserError(
            f"{name} is of quantization with calibration, and dynamic quantization measures ranges while the model runs",
            code="bad-option", hint="leave it out; --evaluate (evaluation=) takes data to compare results on",
        )  # fmt: skip


def quantize_with_dynamic_ranges(
    original: Graph, recipe: Recipe, evaluation: Source | None, asked: Asked, threads: int | None
) -> tuple[Graph, QuantizationReport]:
    """The quantized graph, and what was done.

    Args:
        original: as imported.
        recipe: the optimised graph, and what a user wants of it.
        evaluation: what results are compared on, if at all.
        asked: a metric that is measured.
    """
    work = clone(recipe.graph)
    stays = recipe.asked(work)
    products = quantize_dynamically(
        work, recipe.how.weights, PassContext(pass_name="quantize"), per_channel=recipe.how.per_channel, stays=stays.get
    )
    verify(work)
    report = QuantizationReport(
        original.source, DYNAMIC, "u8 by the range at run time",
        f"{recipe.how.weights}{' per channel' if recipe.how.per_channel else ''}", tuple(map(_row, products)), (),
        constant_bytes(original), constant_bytes(work), RangeTable({}, DYNAMIC), notes=tuple(_notes(products)),
    )  # fmt: skip
    if evaluation is None:
        return work, report
    data = CalibrationData(recipe.graph, None, evaluation, threads, compare=True, again=False)
    want, got = ([outputs_of(graph, feed, data.runner) for feed in data.compared] for graph in (recipe.graph, work))
    goal = Goal(asked, want, data.compared)
    measured = GoalRow(asked.name, goal.float_score, asked.score(got, data.compared), "", 0, 0, 0)
    return work, replace(
        report, data=data.words(), goal=measured if asked.metric is not None else None,
        outputs=tuple(OutputRow(name, noise.sqnr_db, noise.error) for name, noise in noise_of(want, got).items()),
    )  # fmt: skip


def _row(product: DynamicProduct) -> LayerRow:
    if product.left is not None:
        return LayerRow(product.node, product.op, "float32", product.left.kind, product.left.reason)
    scales = "1 scale" if product.scales == 1 else f"{product.scales} scales"
    return LayerRow(product.node, product.op, f"u8 x u8 weights ({scales})")


def _notes(products: Sequence[DynamicProduct]) -> Iterator[str]:
    if all(product.left is not None for product in products):
        yield "nothing was quantized: there is no product of matrices with a constant weight"

"""Ranges of everything that a quantized model stores: from a user, a table or data, in that order."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.driver.quantize.data import CalibrationData
from graphopt.driver.quantize.range_table import RangeTable
from graphopt.driver.quantize.recipe import Recipe
from graphopt.passes.quant.bodies import Bodies
from graphopt.passes.quant.parameters import IntegerForm
from graphopt.passes.quant.placement import seen_of
from graphopt.passes.quant.plan import calibrated_values, form_of_group, possible_values
from graphopt.passes.quant.ranges import Range, range_of


@dataclass(frozen=True)
class ChosenRanges:
    """Ranges by the name of a value.

    Attributes:
        ranges: for the form that the value is stored in.
        wide: for 16 bits instead.
        unseen: values of branches and loops that no data went through. They have the range of nothing in ``ranges``, and so in a
            table, which says the same when it is used.
    """

    ranges: dict[str, Range]
    wide: dict[str, Range]
    unseen: frozenset[str]


def choose_ranges(
    recipe: Recipe, data: CalibrationData, known: RangeTable | None, *, all_possible: bool, wide: bool
) -> ChosenRanges:
    """Ranges of everything that a recipe stores.

    How much of a range is worth clipping depends on how fine its steps are, so each is chosen for the form that the value is
    stored in.

    Args:
        known: ranges that need no data.
        all_possible: also of values that only a placement with more in float needs.
        wide: whether ranges in 16 bits are wanted. What a table or a user says isn't among them: it holds for both.

    Raises:
        UserError: there is no data, and the table lacks one.
        InputError: a value isn't finite on the data.
    """
    how, placement = recipe.how, recipe.place()
    inner = any(node.graph is not recipe.graph for node in placement.roles)  # may stay in float once data is known
    needed = possible_values(placement) if all_possible or inner else calibrated_values(placement)
    wanted = recipe.overrides.resolve(placement, how)
    methods = {value.name: wanted.methods.get(value.name, (how.method, how.percentile)) for value in needed}
    forms: dict[str, IntegerForm] = {}
    for group in placement.groups:
        form = form_of_group(group, wanted.forms, how.activations)
        forms.update((seen_of(placement, value).name, form) for value in group)
    measured = [value for value in needed if value.name not in wanted.ranges]
    histogram = how.method.histogram or any(method.histogram for method, _ in methods.values())
    statistics = data.statistics(measured, histogram, known)

    def chosen(name: str, form: IntegerForm) -> Range:
        method, percentile = methods[name]
        return range_of(statistics[name], form, method, percentile)

    ranges = {
        name: wanted.ranges[name] if name in wanted.ranges
        else chosen(name, forms.get(name, how.activations)) if known is None or name not in known.ranges
        else known.ranges[name]
        for name in methods
    }  # fmt: skip
    bodies = Bodies(recipe.graph)
    unseen = {
        value.name for value in needed
        if bodies.home(value) is not recipe.graph and ranges[value.name] == Range(0.0, 0.0)
    }  # fmt: skip
    return ChosenRanges(ranges, {n: chosen(n, how.wide) for n in statistics} if wide else {}, frozenset(unseen))

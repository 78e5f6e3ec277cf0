"""Leaving the worst layers in float, or their operands in 16 bits, until results are as good as asked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from graphopt.driver.quantize.goal import Goal, Outputs
from graphopt.driver.quantize.sensitivity import Sensitivity, SwitchedModel, by_sensitivity, sensitivities
from graphopt.errors import UserError

FallBack = Literal["float", "16"]
FALL_BACKS = ("float", "16")
"""What a layer goes back to: float, or 8-bit weights with data in 16 bits, and to float where that isn't enough."""


@dataclass(frozen=True)
class Treatment:
    """Layers that are treated otherwise than the rest, by name, with why.

    Attributes:
        in_float: those that aren't quantized.
        wide: those whose data is in 16 bits.
    """

    in_float: Mapping[str, str] = field(default_factory=dict)
    wide: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Controlled:
    """What was found.

    Attributes:
        treatment: with which the goal holds.
        layers: all that could be treated, with what each costs; empty where nobody had to know.
        outputs: of the model with that treatment.
    """

    treatment: Treatment
    layers: Mapping[str, Sensitivity]
    outputs: Outputs


def require_fall_back(name: str) -> None:
    """Refuse what layers can't go back to.

    Raises:
        UserError: with what there is.
    """
    if name not in FALL_BACKS:
        raise UserError(
            f"layers can't go back to {name!r}", code="bad-option", hint=f"there are {' and '.join(FALL_BACKS)}"
        )


def treatment_for(
    goal: Goal,
    switched: Callable[[], SwitchedModel],
    outputs_with: Callable[[Treatment], Outputs],
    fall_back: FallBack,
    *,
    measure: bool = False,
) -> Controlled:
    """The treatment of as few layers as make the goal hold, those first that cost most by themselves.

    How many is found by bisection on a model that is switched, and then tried on the model that will be written: more are taken,
    in steps that double, until the goal holds there too. Every number is that of a deterministic run, so the same model and data
    give the same choice.

    Args:
        goal: what has to hold.
        switched: makes the model that is switched.
        outputs_with: runs the model that is written with a treatment.
        fall_back: what layers go back to.
        measure: what each layer costs, also where everything holds without.

    Raises:
        UserError: the goal doesn't hold whatever is done.
    """
    outputs = outputs_with(Treatment())
    holds = not goal.asked.limits or goal.holds(outputs)
    if holds and not measure:
        return Controlled(Treatment(), {}, outputs)
    model = switched()
    found = sensitivities(model, goal.want)
    if holds:
        return Controlled(Treatment(), found, outputs)
    order = by_sensitivity(found)
    stages: list[Callable[[int], Treatment]] = [lambda count: _treatment(order, found, count, 0)]
    if fall_back == "16":
        stages = [lambda n: _treatment(order, found, 0, n), lambda n: _treatment(order, found, n, len(order))]
    for treated in stages:
        treatment, outputs = _least(goal, model, outputs_with, treated, len(order))
        if goal.holds(outputs):
            return Controlled(treatment, found, outputs)
    raise UserError(
        f"{goal.words()} can't be reached: with all {len(order)} layers in float it is {goal.result(outputs)}",
        code="max-drop", hint="ask for less; a metric has to give the same number for the same outputs",
    )  # fmt: skip


def _least(
    goal: Goal, model: SwitchedModel, outputs_with: Callable[[Treatment], Outputs], treated: Callable[[int], Treatment],
    layers: int,
) -> tuple[Treatment, Outputs]:  # fmt: skip
    """The treatment of the fewest layers with which the goal holds, and outputs with it; that of all where it never does."""

    def holds(count: int) -> bool:
        return goal.holds(model.outputs(_forms(model.layers, treated(count))))

    count, step = 1 + bisect_left(range(1, layers), True, key=holds), 1
    outputs = outputs_with(treated(count))
    while count < layers and not goal.holds(outputs):
        count, step = min(count + step, layers), 2 * step
        outputs = outputs_with(treated(count))
    return treated(count), outputs


def _forms(order: list[str], treatment: Treatment) -> dict[str, int]:
    """The number of the plan that each layer follows: 0 for 8 bits, 1 for 16; none is float."""
    return {layer: int(layer in treatment.wide) for layer in order if layer not in treatment.in_float}


def _treatment(order: list[str], found: Mapping[str, Sensitivity], in_float: int, wide: int) -> Treatment:
    """The first layers in float, and the first of the others in 16 bits."""

    def why(layer: str) -> str:
        cost, number = found[layer], order.index(layer) + 1
        alone = f"{cost.sqnr_db:.1f} dB with it alone in integers"
        if cost.together > 1:
            alone = f"{cost.sqnr_db:.1f} dB with it and {cost.together - 1} others"
        return f"number {number} of {len(order)} by what its integers do to the outputs: {alone}"

    return Treatment(
        {layer: why(layer) for layer in order[:in_float]}, {layer: why(layer) for layer in order[in_float:wide]}
    )

"""What values a float32 graph takes on calibration data, and which nodes can't be in 16 bits because of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.driver.calibration import CompiledRunner
from graphopt.driver.precision.inner_values import Feed, float_results, results_on
from graphopt.ir.graph import Array, Value
from graphopt.passes.precision.narrow_form import is_float32
from graphopt.passes.precision.narrow_format import MOSTLY, NarrowFormat
from graphopt.passes.precision.plan import Kept, PrecisionPlan


@dataclass
class ValueRange:
    """Magnitudes of a value over all data.

    Attributes:
        largest: the largest finite magnitude.
        nonzero: how many elements were not zero, and finite.
        vanishing: how many of them are too small for full precision.
    """

    largest: float = 0.0
    nonzero: int = 0
    vanishing: int = 0

    def add(self, array: Array, form: NarrowFormat) -> None:
        """Take in one more array; what isn't finite in float32 is no overflow of 16 bits."""
        size = np.abs(array)
        size = size[np.isfinite(size) & (size > 0)]
        if size.size:
            self.largest = max(self.largest, float(size.max()))
            self.nonzero += size.size
            self.vanishing += int((size < form.smallest).sum())

    def problem(self, name: str, form: NarrowFormat) -> str | None:
        """Why the value can't be in the format, None where it can."""
        if np.isinf(form.narrow(np.float32(self.largest))):
            return f"%{name} reaches {self.largest:.3g}, beyond {form}"
        if self.vanishing > MOSTLY * self.nonzero:
            part = 100 * self.vanishing / self.nonzero
            return f"{part:.0f}% of %{name} is below {form.smallest:.2g} and vanishes in {form}"
        return None


def value_ranges(plan: PrecisionPlan, feeds: Sequence[Feed], runner: CompiledRunner) -> dict[str, ValueRange]:
    """Ranges of the graph's inputs and of all float32 values that its nodes make, by name."""
    graph = plan.graph
    inputs = [v.name for v in graph.inputs if is_float32(v)]
    found = {name: ValueRange() for name in (*inputs, *(v.name for v in float_results(graph)))}
    for feed in feeds:
        for name in inputs:
            found[name].add(feed[name], plan.format)
    for _, values in results_on(graph, [v.name for v in float_results(graph)], feeds, runner):
        for name, array in values.items():
            found[name].add(array, plan.format)
    return found


def kept_by_data(plan: PrecisionPlan, ranges: dict[str, ValueRange]) -> dict[str, Kept]:
    """By name, nodes that would be in 16 bits and read or make what can't be."""
    found = {}
    problems = {name: problem for name, r in ranges.items() if (problem := r.problem(name, plan.format)) is not None}
    for node, form in plan.narrow.items():
        values: list[Value | None] = [node.inputs[i] for i in sorted(form.operands)]
        values += [node.outputs[i] for i in sorted(form.results)]
        hit = next((v.name for v in values if v is not None and v.name in problems), None)
        if hit is not None:
            found[node.name] = Kept("data", problems[hit])
    return found

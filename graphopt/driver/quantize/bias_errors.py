"""Mean errors of quantized layers on data, in one pass over it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphopt.driver.calibration import CompiledRunner, Feed
from graphopt.ir.graph import Array
from graphopt.passes.quant.bias_correction import measure_errors
from graphopt.passes.quant.plan import QuantPlan
from graphopt.rewrite.passes import PassContext


def mean_errors(plan: QuantPlan, feeds: Iterable[Feed], runner: CompiledRunner) -> dict[str, Array]:
    """By the name of a product, the mean error of each of its output channels. Nothing but sums is kept.

    Args:
        plan: for a graph of its own, which is changed.
    """
    outputs = measure_errors(plan, PassContext(pass_name="quantize"))
    graph = plan.placement.graph
    names = [name for sums in outputs.values() for name in (sums.sums, sums.count)]
    totals = {layer: np.zeros(sums.channels) for layer, sums in outputs.items()}
    counts = dict.fromkeys(outputs, 0)
    for feed in feeds if names else ():
        found = runner(graph, names, feed)
        for layer, sums in outputs.items():
            totals[layer] += found[sums.sums].astype(np.float64)
            counts[layer] += int(found[sums.count]) // sums.channels
    return {layer: total / max(counts[layer], 1) for layer, total in totals.items()}

"""How much each layer costs by itself: the noise at the outputs with it alone in integers, found in few runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphopt.driver.calibration import Feed
from graphopt.driver.precision.noise import outputs_of
from graphopt.driver.quantize.goal import Outputs, noise_of
from graphopt.passes.quant.plan import QuantPlan
from graphopt.passes.quant.switches import add_switches
from graphopt.rewrite.passes import PassContext

if TYPE_CHECKING:
    from graphopt.driver.calibration import CompiledRunner

NEGLIGIBLE = 0.01
"""Layers are not told apart that together make less than this part of the noise of all."""


@dataclass(frozen=True)
class Sensitivity:
    """What a layer does to the outputs.

    Attributes:
        noise: energy of the noise over that of the signal, at the output where it is most, with the layer alone in integers, or
            with a group of layers.
        together: how many layers this was measured of.
    """

    noise: float
    together: int = 1

    @property
    def share(self) -> float:
        """The part of the noise that counts as this layer's."""
        return self.noise / self.together

    @property
    def sqnr_db(self) -> float:
        """Signal to noise of the outputs in dB; at least, where several layers were measured together."""
        return math.inf if self.noise == 0 else -10 * math.log10(self.noise) if math.isfinite(self.noise) else -math.inf


class SwitchedModel:
    """A float model whose layers are switched to integers while it runs: one compilation for all of them.

    Args:
        plans: what integers would be, with 8 and perhaps 16 bits, for graphs of their own; the first one's is changed.
    """

    def __init__(self, plans: Sequence[QuantPlan], feeds: Sequence[Feed], runner: CompiledRunner) -> None:
        self._graph = plans[0].placement.graph
        self._switches = add_switches(plans, PassContext(pass_name="quantize")).inputs
        self._feeds, self._runner = feeds, runner

    @property
    def layers(self) -> list[str]:
        """Names of what can be switched, in order of computation."""
        return list(self._switches)

    def outputs(self, forms: Mapping[str, int]) -> Outputs:
        """Outputs with layers in the integers of a plan, by its number; all others in float."""
        given = {
            switch: np.asarray(forms.get(layer) == number)
            for layer, switches in self._switches.items()
            for number, switch in enumerate(switches)
        }
        return [outputs_of(self._graph, {**feed, **given}, self._runner) for feed in self._feeds]


def sensitivities(model: SwitchedModel, want: Outputs) -> dict[str, Sensitivity]:
    """By layer, in order of computation. Halves of halves are measured, and what is negligible is not divided further.

    Args:
        want: outputs in float.
    """

    def noise(layers: Sequence[str]) -> float:
        found = noise_of(want, model.outputs(dict.fromkeys(layers, 0)))
        return max((n.error**2 for n in found.values()), default=0.0)

    found: dict[str, Sensitivity] = {}
    if not model.layers:
        return found
    total = noise(model.layers)
    negligible = NEGLIGIBLE * total if math.isfinite(total) else 0.0

    def divide(layers: Sequence[str], measured: float) -> None:
        if len(layers) == 1 or measured <= negligible:
            found.update({layer: Sensitivity(measured, len(layers)) for layer in layers})
            return
        middle = len(layers) // 2
        for half in (layers[:middle], layers[middle:]):
            divide(half, noise(half))

    divide(model.layers, total)
    return found


def by_sensitivity(found: Mapping[str, Sensitivity]) -> list[str]:
    """The layers, those that cost most first; of equal ones the earlier."""
    order = {layer: i for i, layer in enumerate(found)}
    return sorted(found, key=lambda layer: (-found[layer].share, order[layer]))

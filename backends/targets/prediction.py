"""How long something takes on a target, by the cost models of its platform: the one place to ask."""

from __future__ import annotations

from graphopt.backends.base.target import Target
from graphopt.backends.program.lone_layer import Extents, layer_seconds
from graphopt.backends.program.prediction import KernelSeconds, predicted_kernels
from graphopt.backends.program.program import Program
from graphopt.backends.targets.platforms import platform_of
from graphopt.ir.graph import Node


class Predictor:
    """Predicted seconds on one target. They are at a nominal clock: what ratios are made of."""

    def __init__(self, target: Target) -> None:
        self._caps = target.caps
        platform = platform_of(target)
        self._costs, self._templates = platform.costs, platform.templates()

    @property
    def call_seconds(self) -> float:
        """Of a kernel call besides the kernel."""
        return self._costs.call_seconds

    @property
    def channel_multiple(self) -> int:
        """What the number of channels of a layer should be a multiple of."""
        return self._costs.channel_multiple(self._caps)

    def kernels(self, program: Program) -> list[KernelSeconds]:
        """The kernels of a program for the target, in order."""
        return predicted_kernels(program, self._costs)

    def seconds(self, program: Program) -> float:
        """One run of a program for the target."""
        kernels = self.kernels(program)
        return sum(kernel.seconds for kernel in kernels) + self.call_seconds * len(kernels)

    def layer(self, node: Node, data: Extents, weight: Extents, result: Extents, flops: int, all_weights: int) -> float:
        """One layer with constant weights, alone; arguments as in `layer_seconds`."""
        return layer_seconds(node, data, weight, result, flops, all_weights, self._templates, self._costs, self._caps)

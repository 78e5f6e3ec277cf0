"""What removing channels saves in predicted time: each kernel of the lowered model, scaled by what its layers would take.

The model is lowered once. A plan's time is then the sum of its kernels' times, each multiplied by (time of its layers with
the channels that stay) / (time with all of them), by the cost models of the target's templates for the layer alone; a layer's
time depends on its extents only and is kept. Kernels without layers shrink with their operations.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphopt.backends.base.target import Target
from graphopt.backends.program.prediction import weight_bytes
from graphopt.backends.program.program import Program
from graphopt.backends.targets.prediction import Predictor
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import Shape, TensorType
from graphopt.ops.registry import LINEAR, has_trait
from graphopt.passes.prune.choice.extents import Extents, Gone
from graphopt.passes.prune.choice.size import SizeModel, fixed_shape, open_sizes
from graphopt.passes.prune.groups import PruneGroups
from graphopt.passes.prune.plan import Mask, PrunePlan


@dataclass(frozen=True)
class _Kernel:
    """One kernel of the whole model.

    Attributes:
        seconds: of the whole.
        layers, others: indices of the nodes that it stands for, those with weights and those without.
    """

    seconds: float
    layers: tuple[int, ...]
    others: tuple[int, ...]


class LatencyModel:
    """Predicted time of plans for one analysed graph on one target.

    Args:
        groups: of the graph.
        program: the graph lowered for the target.
    """

    def __init__(self, groups: PruneGroups, program: Program) -> None:
        self.groups = groups
        self.target: Target = program.target
        self.extents = Extents(groups)
        self._sizes = SizeModel(groups, self.extents)
        self._open = open_sizes(groups.graph)
        self._predict = Predictor(self.target)
        self._nodes = list(groups.graph.nodes)
        self._layer_seconds: dict[tuple[object, ...], float] = {}
        self._all_weights = weight_bytes(program)
        self._kernels = [self._kernel(k.seconds, k.origins) for k in self._predict.kernels(program)]
        none = self.extents.none_gone()
        self._whole = [self._work(kernel, none) for kernel in self._kernels]
        self._kernels_of: dict[int, list[int]] = defaultdict(list)
        for i, kernel in enumerate(self._kernels):
            for node in (*kernel.layers, *kernel.others):
                self._kernels_of[node].append(i)

    @property
    def seconds_before(self) -> float:
        """Predicted time of the whole model."""
        return sum(k.seconds for k in self._kernels) + self.calls_seconds

    @property
    def calls_seconds(self) -> float:
        """Predicted time of the kernel calls besides the kernels, which no removal changes."""
        return self._predict.call_seconds * self.kernels

    def seconds(self, plan: PrunePlan) -> float:
        """Predicted time of what a plan leaves."""
        gone = self.extents.gone(plan.removed)
        return sum(self.kernel_seconds(range(self.kernels), gone)) + self.calls_seconds

    @property
    def kernels(self) -> int:
        """How many kernels there are."""
        return len(self._kernels)

    def kernel_seconds(self, kernels: Iterable[int], gone: Gone) -> list[float]:
        """Predicted times of kernels, by their index, once the channels are gone."""
        found = []
        for i in kernels:
            kernel, whole = self._kernels[i], self._whole[i]
            scale = self._work(kernel, gone) / whole if whole > 0 else 1.0
            found.append(kernel.seconds * scale)
        return found

    def kernels_of(self, group: int) -> list[int]:
        """Indices of the kernels that shrink with a group."""
        nodes = {id(node): i for i, node in enumerate(self._nodes)}
        touched: set[int] = set()
        for slot in self.extents.slots_of(self.groups.groups[group].channels.tolist()):
            if isinstance(slot, Value):
                users = [*slot.consumers, *([slot.producer] if slot.producer is not None else [])]
            else:
                users = [slot.node]
            for node in users:
                touched.update(self._kernels_of.get(nodes.get(id(node), -1), ()))
        return sorted(touched)

    def layer_seconds(self, node: Node, gone: Gone) -> float:
        """Predicted time of one layer with constant weights, alone, once the channels are gone."""
        data = self._fixed(self.extents.input_shape(node, 0, gone))
        weight = self._fixed(self.extents.input_shape(node, 1, gone))
        result = self._fixed(self.extents.shape(node.out, gone))
        key = (node.op, _attributes(node), data, weight, result)
        if key not in self._layer_seconds:
            flops = self._sizes.node_flops(node, gone)
            self._layer_seconds[key] = self._predict.layer(node, data, weight, result, flops, self._all_weights)
        return self._layer_seconds[key]

    # -- inside -------------------------------------------------------------------------------------------------
    def _kernel(self, seconds: float, origins: Sequence[str]) -> _Kernel:
        wanted = set(origins)
        found = [i for i, node in enumerate(self._nodes) if wanted & {node.name, *node.origins}]
        layers = tuple(i for i in found if _is_layer(self._nodes[i]))
        return _Kernel(seconds, layers, tuple(i for i in found if i not in layers))

    def _work(self, kernel: _Kernel, gone: Gone) -> float:
        if kernel.layers:
            return sum(self.layer_seconds(self._nodes[i], gone) for i in kernel.layers)
        flops = sum(self._sizes.node_flops(self._nodes[i], gone) for i in kernel.others)
        return float(flops or sum(self._elements(self._nodes[i], gone) for i in kernel.others))

    def _elements(self, node: Node, gone: Gone) -> int:
        values = [
            v for v in node.outputs if v is not None and isinstance(v.type, TensorType) and v.type.shape is not None
        ]
        return sum(math.prod(self._fixed(self.extents.shape(v, gone))) for v in values)

    def _fixed(self, shape: Shape) -> tuple[int, ...]:
        return fixed_shape(shape, self._open)


class RunningLatency:
    """A latency model with a state, for searches (`graphopt.passes.prune.choice.latency_search.Clock`)."""

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self._gone = model.extents.none_gone()
        self._now = model.kernel_seconds(range(model.kernels), self._gone)
        self._kernels_of = {g.index: model.kernels_of(g.index) for g in model.groups.groups}

    @property
    def seconds(self) -> float:
        """Of the whole model in this state."""
        return sum(self._now) + self._model.calls_seconds

    def saving(self, group: int, mask: Mask) -> float:
        """Seconds less if these channels of a group, those that are gone already among them, were gone."""
        channels = self._model.groups.groups[group].channels
        before = self._gone[channels]
        self._gone[channels] = before | mask
        found = self._model.kernel_seconds(self._kernels_of[group], self._gone)
        self._gone[channels] = before
        return sum(self._now[i] - s for i, s in zip(self._kernels_of[group], found))

    def take(self, group: int, mask: Mask) -> None:
        """They are gone from now on."""
        self._gone[self._model.groups.groups[group].channels[mask]] = True
        for i, s in zip(self._kernels_of[group], self._model.kernel_seconds(self._kernels_of[group], self._gone)):
            self._now[i] = s


def _is_layer(node: Node) -> bool:
    weight = node.input(1)
    return has_trait(node, LINEAR) and weight is not None and weight.is_const and len(weight.shape) > 1


def _attributes(node: Node) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in node.attrs.items() if name != "group"))

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

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.target import Target
from graphopt.backends.base.template import KernelCall, weigh
from graphopt.backends.program.program import Program
from graphopt.backends.targets.lowered import templates_of
from graphopt.backends.templates.convolution import channel_layout
from graphopt.driver.predicted_latency import (
    CALL_SECONDS,
    arithmetic_seconds,
    moved_seconds,
    predicted_kernels,
    weight_bytes,
)
from graphopt.ir.editor import Editor
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import Shape, TensorType
from graphopt.ops.context import attr
from graphopt.ops.registry import CONVOLUTION, LINEAR, has_trait
from graphopt.passes.prune.choice.extents import Extents, Gone
from graphopt.passes.prune.choice.size import SizeModel, fixed_shape, open_sizes
from graphopt.passes.prune.groups import PruneGroups
from graphopt.passes.prune.plan import Mask, PrunePlan

TENSOR_CORE_CHANNELS = 8
"""What tensor cores want channels to be a multiple of, for float16; 4 would do for TF32."""
LEAST_BLOCK = 8
"""Channels are stored in blocks of 16, or of 8 where that does not divide them; others are not blocked at all."""


def channel_multiple(caps: Caps) -> int:
    """What the number of channels that stay should be a multiple of: a vector of float32, at least a block of channels; on a
    GPU what a tensor core takes."""
    return TENSOR_CORE_CHANNELS if caps.is_gpu else max(caps.lanes(4), LEAST_BLOCK)


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
        self._templates = templates_of(self.target)
        self._nodes = list(groups.graph.nodes)
        self._layer_seconds: dict[tuple[object, ...], float] = {}
        self._all_weights = weight_bytes(program)
        self._kernels = [self._kernel(k.seconds, k.origins) for k in predicted_kernels(program)]
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
        return CALL_SECONDS * self.kernels

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
            self._layer_seconds[key] = self._weigh(node, data, weight, result, self._sizes.node_flops(node, gone))
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

    def _weigh(
        self, node: Node, data: tuple[int, ...], weight: tuple[int, ...], result: tuple[int, ...], flops: int
    ) -> float:
        if len(data) == 3 and has_trait(node, CONVOLUTION):  # compiled as one row of an image
            data, weight, result = ((*s[:2], 1, *s[2:]) for s in (data, weight, result))
        caps = self.target.caps
        call = _alone(node, data, weight, result, caps)
        best = next(iter(weigh(self._templates, call, caps)), None)
        floor = moved_seconds(4 * math.prod(weight), 4 * (math.prod(data) + math.prod(result)), caps, self._all_weights)
        if best is not None and best.seconds is not None:
            return max(best.seconds, floor)
        return max(floor, arithmetic_seconds(flops, caps))


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


def _alone(
    node: Node, data: tuple[int, ...], weight: tuple[int, ...], result: tuple[int, ...], caps: Caps
) -> KernelCall:
    """The layer as a kernel of its own, on operands of these shapes in the layouts that it would like best."""
    assert node.inputs[0] is not None
    dtype = node.inputs[0].dtype
    attrs = dict(node.attrs)
    if has_trait(node, CONVOLUTION):
        if len(weight) > len(node.inputs[1].shape if node.inputs[1] is not None else ()):
            _one_row(attrs)
        if int(attr(node, "group") or 1) > 1:
            attrs["group"] = data[1] // weight[1] if node.op == "Conv" else result[1] // weight[1]
    graph = Graph(node.name, opset=node.graph.opset if node.graph is not None else 0)
    zeros = np.broadcast_to(np.zeros((), dtype.numpy), weight)
    editor = Editor(graph)
    operands = [editor.add_input("x", TensorType(dtype, data)), editor.constant(zeros, "w")]
    out = editor.value("y", TensorType(dtype, result))
    layer = editor.node(node.op, operands, attrs, outputs=[out], name=node.name)
    group = Group([layer], layer, outputs=[out])
    layouts = {v: channel_layout(v.shape[1], caps) for v in (operands[0], out)} if node.op == "Conv" else {}
    return KernelCall(FusedGraph(graph, [group], layouts), group)


def _one_row(attrs: dict[str, object]) -> None:
    """Attributes of a convolution along one axis as of one over images of one row."""
    for name, filler in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
        value = attrs.get(name)
        if isinstance(value, list):
            attrs[name] = [filler, *value]
    pads = attrs.get("pads")
    if isinstance(pads, list):
        attrs["pads"] = [0, pads[0], 0, pads[1]]

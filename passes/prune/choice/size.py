"""Parameters, operations and bytes of a graph, and of what a plan leaves of it, counted from shapes without the surgery."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.dims import Dim, subs, symbols_of
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, Node, Use, Value
from graphopt.ir.types import TensorType
from graphopt.ops.flops import node_flops
from graphopt.passes.prune.choice.extents import Extents, Gone
from graphopt.passes.prune.groups import PruneGroups
from graphopt.passes.prune.labels import shape_of
from graphopt.passes.prune.plan import PrunePlan

BATCH_EXTENT = 1
"""What an open first dimension stands for when operations are counted."""
OPEN_EXTENT = 64
"""... and any other: the count only has to be comparable."""


@dataclass(frozen=True)
class Size:
    """What a model takes, whatever runs it.

    Attributes:
        parameters: elements of weights: constants of the graph and its subgraphs, without the integers that shapes are
            made of (int64).
        bytes: of these constants.
        flops: operations of all nodes of the outermost graph (`graphopt.ops.flops`), open dimensions as in `BATCH_EXTENT`.
    """

    parameters: int
    bytes: int
    flops: int


def size_of(graph: Graph) -> Size:
    """Size of a graph as it is."""
    sizes = open_sizes(graph)
    data = [v.data for v in graph.constants() if v.data is not None and _is_weight(v)]
    flops = sum(_flops(node, [], [], sizes) for node in graph.nodes)
    return Size(sum(d.size for d in data), sum(d.nbytes for d in data), flops)


class SizeModel:
    """Sizes of plans for one analysed graph: some 10 milliseconds a plan.

    Exact, but for operands that only computed sizes: the surgery may drop them where it writes the sizes down.
    """

    def __init__(self, groups: PruneGroups, extents: Extents | None = None) -> None:
        self.extents = extents or Extents(groups)
        self._graph = groups.graph
        self._sizes = open_sizes(self._graph)
        self._flops: dict[tuple[object, ...], int] = {}
        inner = {
            v for node in self._graph.walk() if node.graph is not self._graph for v in node.inputs if v is not None
        }
        self._weights = [
            (v, [u for u in v.uses if u.node.graph is self._graph], v in inner or v.escapes > 0)
            for v in self._graph.constants()
            if _is_weight(v)
        ]

    def of(self, plan: PrunePlan) -> Size:
        """What the plan leaves."""
        gone = self.extents.gone(plan.removed)
        return Size(*self._constants(gone), self.flops(gone))

    def flops(self, gone: Gone) -> int:
        """Operations once the channels are gone."""
        return sum(self.node_flops(node, gone) for node in self._graph.nodes)

    def node_flops(self, node: Node, gone: Gone) -> int:
        """Operations of one node once the channels are gone."""
        inputs = [
            () if v is None or shape_of(v) is None else self.extents.input_shape(node, i, gone)
            for i, v in enumerate(node.inputs)
        ]
        outputs = [() if v is None or shape_of(v) is None else self.extents.shape(v, gone) for v in node.outputs]
        key = (node.name, id(node), *inputs, *outputs)
        if key not in self._flops:
            self._flops[key] = _flops(node, inputs, outputs, self._sizes)
        return self._flops[key]

    def _constants(self, gone: Gone) -> tuple[int, int]:
        """Elements and bytes: a constant that two uses need different parts of becomes two."""
        elements = size = 0
        for value, uses, whole in self._weights:
            assert value.data is not None
            versions: dict[tuple[bytes, ...] | None, int] = {None: value.data.size} if whole else {}
            for use in uses:
                masks = self.extents.keep(use, gone)
                shape = self.extents.input_shape(use.node, use.index, gone)
                count = math.prod(d for d in shape if isinstance(d, int))
                intact = count == value.data.size
                key = (
                    None if intact else (*(b"" if m is None else m.tobytes() for m in masks), *_cut(use, shape, masks))
                )
                versions[key] = count
            elements += sum(versions.values())
            size += sum(versions.values()) * value.data.itemsize
        return elements, size


def _cut(use: Use, shape: tuple[Dim, ...], masks: Iterable[object]) -> tuple[bytes, ...]:
    """What tells a weight cut group by group from others: its use."""
    kept = tuple(d if m is None else int(np.sum(m)) for d, m in zip(shape, masks))  # type: ignore[call-overload]
    return () if kept == shape else (f"{id(use.node)}.{use.index}".encode(),)


def open_sizes(graph: Graph) -> dict[str, int]:
    """What the symbols in a graph's shapes stand for when work is counted."""
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(shape_of(value) or ()):
            if not isinstance(dim, int):
                for name in symbols_of(dim):  # type: ignore[arg-type]
                    sizes.setdefault(name, BATCH_EXTENT if axis == 0 else OPEN_EXTENT)
    return sizes


def fixed_shape(shape: Sequence[Dim], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with numbers for its symbols (`open_sizes`), those that only data decides included."""
    found = []
    for dim in shape:
        if not isinstance(dim, int):
            dim = subs(dim, {name: sizes.get(name, OPEN_EXTENT) for name in symbols_of(dim)})
        assert isinstance(dim, int)
        found.append(dim)
    return tuple(found)


def _flops(node: Node, inputs: list[tuple[Dim, ...]], outputs: list[tuple[Dim, ...]], sizes: Mapping[str, int]) -> int:
    """Operations of a node on tensors of other shapes than its own (none given: its own)."""
    count = None if inputs or outputs else node_flops(node)
    if count is None:
        stand_in = Node(
            node.op, [_resized(v, s, sizes) for v, s in _paired(node.inputs, inputs)],
            [_resized(v, s, sizes) for v, s in _paired(node.outputs, outputs)], node.attrs, node.name, node.domain,
            graph=node.graph,
        )  # fmt: skip
        count = node_flops(stand_in)
    return count or 0


def _paired(
    values: list[Value | None], shapes: list[tuple[Dim, ...]]
) -> list[tuple[Value | None, tuple[Dim, ...] | None]]:
    return list(zip(values, shapes)) if shapes else [(v, None) for v in values]


def _resized(value: Value | None, shape: tuple[Dim, ...] | None, sizes: Mapping[str, int]) -> Value | None:
    if value is None or shape_of(value) is None:
        return value
    dims = fixed_shape(value.shape if shape is None else shape, sizes)
    return Value(value.name, TensorType(value.dtype, dims))


def _is_weight(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.dtype is not DType.i64

"""A graph with its open dimensions fixed: cost models have nothing to say about sizes that only run time knows."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.driver.importing import import_onnx
from graphopt.ir.graph import Array, Graph
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.types import TensorType


def at_extents(graph: Graph, feed: Mapping[str, Array]) -> Graph:
    """The graph for inputs of exactly these shapes, with all names as they are; the graph itself where nothing is open."""
    if all(_is_static(value.type) for value in graph.inputs):
        return graph
    return import_onnx(graph_to_onnx(graph), shapes={value.name: feed[value.name].shape for value in graph.inputs})


def _is_static(type_: object) -> bool:
    return isinstance(type_, TensorType) and type_.shape is not None and all(isinstance(d, int) for d in type_.shape)

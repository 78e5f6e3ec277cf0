"""Inner values of graphs on data, in portions that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from graphopt.driver.calibration import CompiledRunner
from graphopt.driver.node_proof import value_bytes
from graphopt.ir.graph import Array, Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.passes.precision.narrow_form import is_float32

MAX_BYTES = 1 << 30
"""Values of a graph that are looked at together."""

Feed = Mapping[str, Array]


def float_results(graph: Graph) -> list[Value]:
    """float32 results of the outermost graph's nodes, in order; what subgraphs compute can't be seen from outside."""
    return [
        v
        for node in graph.nodes
        for v in node.outputs
        if v is not None and is_float32(v) and isinstance(v.type, TensorType) and v.type.shape is not None
    ]


def portions(graph: Graph, names: Sequence[str], feed: Feed) -> Iterator[list[str]]:
    """The names in portions of about ``MAX_BYTES``, all of equal numbers."""
    parts = max(1, -(-value_bytes(graph, feed) // MAX_BYTES))
    size = max(1, -(-len(names) // parts))
    for start in range(0, len(names), size):
        yield list(names[start : start + size])


def first_result(node: Node) -> Value | None:
    """The result by which a node is judged."""
    return next((v for v in node.outputs if v is not None and is_float32(v)), None)


def results_on(
    graph: Graph, names: Sequence[str], feeds: Sequence[Feed], runner: CompiledRunner
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Values by name for every feed, portion by portion, with the number of the feed."""
    for part in portions(graph, names, feeds[0]):
        for index, feed in enumerate(feeds):
            yield index, runner(graph, part, feed)

"""The proof node by node: each node of a pruned graph gets what the masked original has, and must give what it gives.

A network may amplify rounding without bound, as a sigmoid of large scores does near zero. Then two right computations differ
at the outputs, and nothing can be told from these. Node by node nothing is amplified; and if every node is right on the
masked original's values, the whole is, in exact arithmetic, by induction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from graphopt.driver.accuracy import Comparison, compare, sum_length, summing_depth
from graphopt.ir.dims import as_symbol
from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Array, Graph, Node, Value
from graphopt.ir.outputs import with_outputs
from graphopt.ir.types import TensorType
from graphopt.passes.prune.choice.size import fixed_shape
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.recovery.repairable import sliced

Evaluate = Callable[[Graph, Mapping[str, Array]], dict[str, Array]]
"""Runs a graph: outputs by name."""


@dataclass(frozen=True)
class NodeError:
    """A node that doesn't give what the masked original has.

    Attributes:
        node: of the original, as ``name (Op)``.
        comparison: of one of its results.
    """

    node: str
    comparison: Comparison


def wrong_nodes(
    plan: PrunePlan, pruned: Graph, masked: Graph, feed: Mapping[str, Array], evaluate: Evaluate
) -> list[NodeError]:
    """Nodes of the pruned graph that are wrong by themselves, in order; empty when the graph is proven right.

    Shape arithmetic is not taken apart: its numbers count channels, so they are others in the pruned graph.

    Args:
        plan: what was removed.
        pruned: the graph without it.
        masked: the original with it set to zero.
        feed: inputs of the model.
        evaluate: runs both.
    """
    left = {value.name for node in pruned.nodes for value in node.outputs if value is not None}
    values = {
        value.name: value
        for node in plan.groups.graph.nodes
        for value in node.outputs
        if value is not None and value.name in left and _is_data(value)
    }
    whole = evaluate(with_outputs(masked, list(values)), feed)
    want = {name: sliced(plan, values[name], array) for name, array in whole.items()}
    apart, given = unlinked(pruned, set(values))
    got = evaluate(apart, {**feed, **{new: want[name] for new, name in given.items()}})
    depth = summing_depth(masked)
    found = []
    for name, value in values.items():
        node = value.producer
        assert node is not None
        comparison = compare(name, got[name], want[name], reduction=_longest(node), depth=depth)
        if not comparison.ok:
            found.append(NodeError(node.label, comparison))
    return found


def value_bytes(graph: Graph, feed: Mapping[str, Array]) -> int:
    """About how many bytes all values of a graph take on the given inputs; extents only known at run time are guessed."""
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        if isinstance(value.type, TensorType) and value.type.shape is not None and value.name in feed:
            pairs = ((as_symbol(dim), n) for dim, n in zip(value.type.shape, feed[value.name].shape))
            sizes.update({name: n for name, n in pairs if name is not None})
    values = [v for node in graph.nodes for v in node.outputs if v is not None and _is_data(v)]
    return sum(prod(fixed_shape(v.shape, sizes)) * max(v.dtype.bits // 8, 1) for v in values)


def unlinked(graph: Graph, names: set[str]) -> tuple[Graph, dict[str, str]]:
    """A copy whose nodes take the named values from new inputs, and which returns what the nodes make of these.

    Returns:
        The copy, and by name of a new input the value that it stands for.
    """
    work = clone(graph)
    editor = Editor(work)
    outputs, given = [], {}
    for node in work.nodes:
        for value in node.outputs:
            if value is None or value.name not in names:
                continue
            outputs.append(value)
            if value.uses and value.type is not None:
                stand_in = editor.add_input(f"{value.name}_given", value.type)
                given[stand_in.name] = value.name
                for use in list(value.uses):
                    editor.set_input(use.node, use.index, stand_in)
    editor.set_outputs(work, outputs)
    return work, given


def _is_data(value: Value) -> bool:
    """Whether a value is a tensor of numbers that are not extents."""
    return isinstance(value.type, TensorType) and value.type.shape is not None and value.content is None


def _longest(node: Node) -> int:
    return max((sum_length(inner) for sub in node.subgraphs for inner in sub.walk()), default=sum_length(node))

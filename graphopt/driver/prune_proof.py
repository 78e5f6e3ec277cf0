"""Proof that a pruned graph is right: it computes what the original does with the same channels set to zero.

Both graphs run in somebody else's code on the same inputs; what the index maps got wrong shows as a difference far above
rounding, and the first inner value that differs names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.driver.accuracy import Comparison, compare_all, longest_sum, summing_depth
from graphopt.driver.compiling import compile
from graphopt.driver.reference import has_onnxruntime, make_reference
from graphopt.errors import AccuracyError, GraphOptError
from graphopt.ir.graph import Array, Graph
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.outputs import inner_values, with_outputs
from graphopt.passes.prune.mask import masked_graph
from graphopt.passes.prune.plan import PrunePlan

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        reference: who ran both graphs: ``onnxruntime``, ``onnx``, or ``graphopt`` itself where neither can.
        outputs: one comparison an output, pruned against masked.
    """

    reference: str
    outputs: tuple[Comparison, ...]


def prove(plan: PrunePlan, pruned: Graph, feed: Mapping[str, Array]) -> Proof:
    """Run the pruned graph and the masked original on the same inputs.

    Args:
        plan: what was removed.
        pruned: the graph without it.
        feed: inputs.

    Raises:
        AccuracyError: they differ by more than the tolerance table allows; the first node whose result differs is named.
        GraphOptError: nobody can run one of them on these inputs.
    """
    masked = masked_graph(plan)
    kind, (got, want) = run_all([pruned, masked], feed)
    reduction, depth = longest_sum(masked), summing_depth(masked)
    found = compare_all(got, want, reduction=reduction, depth=depth)
    bad = [c for c in found if not c.ok]
    if bad:
        node, explanation = _localise(plan, pruned, masked, feed, kind)
        raise AccuracyError(
            f"the pruned graph doesn't compute what the original with the same channels set to zero does: "
            f"output {bad[0].name!r}: {bad[0].problem}",
            code="prune-differs", node=node,
            notes=[*(f"{c.name}: {c.problem}" for c in bad[1:6]), explanation],
            hint="leave the layers around it out with --exclude, and please report it",
        )  # fmt: skip
    return Proof(kind, tuple(found))


def run_all(graphs: Sequence[Graph], feed: Mapping[str, Array]) -> tuple[str, list[dict[str, Array]]]:
    """Outputs of several graphs on the same inputs, all by the first implementation that can run each of them.

    Raises:
        GraphOptError: none can; the reason is that of our own executor.
    """
    kind, runs = runners(graphs, feed)
    return kind, [run(feed) for run in runs]


def runners(graphs: Sequence[Graph], feed: Mapping[str, Array]) -> tuple[str, list[Run]]:
    """The first of ONNX Runtime without optimisation, onnx's evaluator and our own executor that can run every graph.

    Args:
        graphs: to run.
        feed: inputs to try them on.
    """
    for kind in ("onnxruntime", "onnx"):
        if kind == "onnxruntime" and not has_onnxruntime():
            continue
        try:
            runs = [_reference(graph, kind) for graph in graphs]
            for run in runs:
                run(feed)
        except GraphOptError:
            continue
        return kind, runs
    compiled = [compile(graph, "native", level=1) for graph in graphs]
    return "graphopt", [_copying(model.run) for model in compiled]


def _reference(graph: Graph, kind: str) -> Run:
    model = make_reference(graph_to_onnx(graph), kind)
    names = [v.name for v in graph.outputs]
    return lambda feed: dict(zip(names, model(feed).values(), strict=True))


def _copying(run: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> Run:
    return lambda feed: {name: np.array(array) for name, array in run(feed).items()}


def _localise(
    plan: PrunePlan, pruned: Graph, masked: Graph, feed: Mapping[str, Array], kind: str
) -> tuple[str | None, str]:
    """The first node whose result differs, and what is wrong with it; failures only make the message shorter."""
    made = {value.name for value in inner_values(pruned)}
    values = [value for value in inner_values(plan.groups.graph) if value.name in made]
    names = [value.name for value in values]
    try:
        found = []
        for graph in (pruned, masked):
            run = _reference(with_outputs(graph, names), kind) if kind != "graphopt" else _own(graph, names)
            found.append(run(feed))
    except GraphOptError as error:
        return None, f"it could not be localised: {error.message}"
    got, whole = found
    want = {value.name: _cut(whole[value.name], plan, value) for value in values}
    reduction, depth = longest_sum(masked), summing_depth(masked)
    for value, comparison in zip(values, compare_all(got, want, reduction=reduction, depth=depth)):
        if not comparison.ok:
            assert value.producer is not None
            return value.producer.label, f"the first value that differs is {value.name!r}: {comparison.problem}"
    return None, "no inner value differs by itself"


def _own(graph: Graph, names: Sequence[str]) -> Run:
    return _copying(compile(with_outputs(graph, names), "native", level=1).run)


def _cut(array: Array, plan: PrunePlan, value: Any) -> Array:
    """The part of the original's value that the pruned graph still has."""
    for axis, mask in enumerate(plan.keep(value)):
        if mask is not None and not mask.all():
            array = np.compress(mask, array, axis)
    return array

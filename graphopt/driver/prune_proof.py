"""Proof that a pruned graph is right: it computes what the original does with the same channels set to zero.

Both graphs run in somebody else's code on the same inputs. Their outputs are compared, and what every node makes of the masked
original's values: outputs alone may hide a wrong index (a saturated softmax) or differ by amplified rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.driver.accuracy import Comparison, compare_all, longest_sum, summing_depth
from graphopt.driver.compiling import compile
from graphopt.driver.node_proof import Evaluate, NodeError, value_bytes, wrong_nodes
from graphopt.driver.reference import has_onnxruntime, make_reference
from graphopt.errors import AccuracyError, GraphOptError
from graphopt.ir.graph import Array, Graph
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.passes.prune.mask import masked_graph
from graphopt.passes.prune.plan import PrunePlan

MAX_BYTES = 1 << 30
"""Graphs whose values take more are not looked at node by node."""

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        reference: who ran both graphs: ``onnxruntime``, ``onnx``, or ``graphopt`` itself where neither can.
        outputs: one comparison an output, pruned against masked.
        missing: why nodes could not be looked at one by one, None when they were.
        amplified: outputs differ, but every node by itself is right: the model amplifies rounding on these inputs.
    """

    reference: str
    outputs: tuple[Comparison, ...]
    missing: str | None = None
    amplified: bool = False


def prove(plan: PrunePlan, pruned: Graph, feed: Mapping[str, Array]) -> Proof:
    """Run the pruned graph and the masked original on the same inputs.

    Args:
        plan: what was removed.
        pruned: the graph without it.
        feed: inputs.

    Raises:
        AccuracyError: a node makes something else of the masked original's values than that has, by more than the tolerance
            table allows; the first is named. Where nodes can't be looked at one by one, outputs decide.
        GraphOptError: nobody can run one of them on these inputs.
    """
    masked = masked_graph(plan)
    kind, (got, want) = run_all([pruned, masked], feed)
    reduction, depth = longest_sum(masked), summing_depth(masked)
    found = compare_all(got, want, reduction=reduction, depth=depth)
    bad = [c for c in found if not c.ok]
    missing = None
    wrong = []
    if value_bytes(plan.groups.graph, feed) > MAX_BYTES:
        missing = f"its values take more than {MAX_BYTES >> 30} GiB"
    else:
        try:
            wrong = wrong_nodes(plan, pruned, masked, feed, _EVALUATE[kind])
        except GraphOptError as error:
            missing = error.message
    if wrong or (bad and missing):
        raise _differs(wrong, bad, missing)
    return Proof(kind, tuple(found), missing, amplified=bool(bad))


def _differs(wrong: Sequence[NodeError], bad: Sequence[Comparison], missing: str | None) -> AccuracyError:
    notes = [f"output {c.name!r}: {c.problem}" for c in bad[:5]]
    if wrong:
        notes.insert(
            0, f"on the original's values it makes another {wrong[0].comparison.name!r}: {wrong[0].comparison.problem}"
        )
    if missing:
        notes.append(f"the graph could not be looked at node by node: {missing}")
    return AccuracyError(
        "the pruned graph doesn't compute what the original with the same channels set to zero does",
        code="prune-differs", node=wrong[0].node if wrong else None, notes=notes,
        hint="leave the layers around it out with --exclude, and please report it",
    )  # fmt: skip


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
    return "graphopt", [_own(graph) for graph in graphs]


def _reference(graph: Graph, kind: str) -> Run:
    model = make_reference(graph_to_onnx(graph), kind)
    names = [v.name for v in graph.outputs]
    return lambda feed: dict(zip(names, model(feed).values(), strict=True))


def _own(graph: Graph) -> Run:
    run = compile(graph, "native", level=1).run
    return lambda feed: {name: np.array(array) for name, array in run(feed).items()}


_EVALUATE: Mapping[str, Evaluate] = {
    "onnxruntime": lambda graph, feed: _reference(graph, "onnxruntime")(feed),
    "onnx": lambda graph, feed: _reference(graph, "onnx")(feed),
    "graphopt": lambda graph, feed: _own(graph)(feed),
}

"""Which nodes have to go back to float32 for the outputs to be as exact as asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from graphopt.driver.calibration import CompiledRunner
from graphopt.driver.precision.conversion import Conversion
from graphopt.driver.precision.inner_values import Feed, first_result
from graphopt.driver.precision.noise import Noise, layer_noise, output_noise, outputs_of
from graphopt.errors import UserError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.registry import ELEMENTWISE, has_trait
from graphopt.passes.precision.operator_rules import never_rounds
from graphopt.passes.precision.plan import Kept, PrecisionPlan

_LEAST = 1e-12
"""Relative error that counts as none."""


def kept_for_error(
    conversion: Conversion, kept: Mapping[str, Kept], feeds: Sequence[Feed], runner: CompiledRunner, max_error: float
) -> dict[str, Kept]:
    """``kept``, and as few of the most sensitive nodes as make every output's relative L2 error at most ``max_error``.

    Nodes are ordered by their sensitivity; how many of them go back is found by bisection, each step a run of the converted
    graph. What comes back has been measured to hold.

    Raises:
        UserError: the error is larger even with everything in float32, as inputs and outputs in 16 bits can make it.
    """
    want = [outputs_of(conversion.graph, feed, runner) for feed in feeds]

    def error(more: Mapping[str, Kept]) -> float:
        noise = output_noise(want, conversion.carry_out(more).graph, feeds, runner)
        return max((n.error for n in noise.values()), default=0.0)

    if error(kept) <= max_error:
        return dict(kept)
    plan = conversion.plan(kept)
    noise = layer_noise(conversion.graph, conversion.carry_out(kept).graph, feeds, runner)
    order = by_sensitivity(plan, noise)

    def with_first(count: int) -> dict[str, Kept]:
        more = {
            name: Kept("sensitivity", f"sensitive: number {i} of {len(order)} by what its rounding does to the outputs")
            for i, name in enumerate(order[:count], 1)
        }
        return {**more, **kept}

    least = error(with_first(len(order)))
    if least > max_error:
        raise UserError(
            f"the relative error of the outputs is {least:.3g} even with every node in float32, more than {max_error:.3g}",
            code="max-error", hint="allow more, or keep inputs and outputs in float32 (--io keep)",
        )  # fmt: skip
    counts = range(1, len(order))
    least_count = 1 + bisect_left(counts, True, key=lambda count: error(with_first(count)) <= max_error)
    return with_first(least_count)


def by_sensitivity(plan: PrecisionPlan, noise: Mapping[str, Noise]) -> list[str]:
    """Names of the nodes in 16 bits, the most sensitive first.

    A node's sensitivity is the relative error that it adds to that of its operands, times what element-wise operators behind it
    make of it: the difference of two large numbers multiplies the errors of both. Nodes that can't be observed, in subgraphs,
    count as their holders do. Those that never round come last: they take the type of their neighbours.

    Args:
        noise: of nodes of the outermost graph, by name.
    """
    error = {name: min(n.error, 1e12) for name, n in noise.items()}

    def of(value: Value | None) -> float:
        maker = None if value is None else value.producer
        return error.get(maker.name, 0.0) if maker is not None else 0.0

    def added(node: Node) -> float:
        return max(error.get(node.name, 0.0) - max((of(v) for v in node.inputs), default=0.0), _LEAST)

    amplified: dict[Node, float] = {}
    for node in reversed(plan.graph.nodes):
        result = first_result(node)
        factors = [1.0]
        for reader in result.consumers if result is not None else ():
            if reader.graph is not plan.graph:
                continue
            own = 1.0
            before = max((of(v) for v in reader.inputs), default=0.0)
            if has_trait(reader, ELEMENTWISE) and before > _LEAST:
                own = max(1.0, error.get(reader.name, 0.0) / before)
            factors.append(own * amplified.get(reader, 1.0))
        amplified[node] = max(factors)
    outermost = _outermost(plan.graph)
    scores = {node: added(outermost[node]) * amplified[outermost[node]] for node in plan.narrow}
    order = {node: i for i, node in enumerate(plan.graph.walk())}
    return [node.name for node in sorted(plan.narrow, key=lambda n: (never_rounds(n), -scores[n], order[n]))]


def _outermost(graph: Graph) -> dict[Node, Node]:
    """For every node the one of the outermost graph that it is part of."""
    found = {}
    for node in graph.nodes:
        found[node] = node
        found.update((inner, node) for sub in node.subgraphs for inner in sub.walk())
    return found

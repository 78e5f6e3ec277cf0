"""Statistics of inner values, gathered while data goes by once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.driver.calibration import CompiledRunner, Feed
from graphopt.driver.precision.inner_values import portions
from graphopt.ir.graph import Graph, Value
from graphopt.passes.quant.bodies import exposed
from graphopt.passes.quant.statistics import ValueStatistics
from graphopt.rewrite.passes import PassContext


def gather_statistics(
    graph: Graph, values: Sequence[Value], feeds: Iterable[Feed], runner: CompiledRunner, *, histogram: bool
) -> dict[str, ValueStatistics]:
    """What the values take on the feeds, by name. Each feed is looked at once, and forgotten.

    Args:
        values: of the graph, inputs or inner ones, those of branches and loops too.
        runner: keeps as many compiled graphs as there are portions of values, or compiles them again for each feed.
        histogram: whether statistics have one.

    Raises:
        InputError: a value isn't finite; it is named.
    """
    found = {value.name: ValueStatistics(histogram) for value in values}
    batched = {value.name for value in values if has_samples(graph, value)}
    outermost = {v.name for v in (*graph.inputs, *(v for node in graph.nodes for v in node.outputs)) if v is not None}
    inner = [name for name in found if name not in outermost]
    shown: dict[str, str] = {}
    if inner:
        graph, shown = exposed(graph, inner, PassContext(pass_name="quantize"))
    names = {shown.get(name, name): name for name in found}
    parts: list[list[str]] | None = None
    for feed in feeds:
        if parts is None:
            parts = list(portions(graph, list(names), feed))
        for part in parts:
            for name, array in runner(graph, part, feed).items():
                found[names[name]].add(names[name], array, names[name] in batched)
    return found


def has_samples(graph: Graph, value: Value) -> bool:
    """Whether the first axis of a value tells samples apart: the symbol that all inputs begin with.

    Values of branches and loops are shown without their axes, so that a feed is one sample of them.
    """
    if value.producer is not None and value.producer.graph is not graph:
        return False
    firsts = {v.shape[0] if v.shape else None for v in graph.inputs}
    if len(firsts) != 1:
        return False
    (first,) = firsts
    return first is not None and not isinstance(first, int) and value.shape[:1] == (first,)

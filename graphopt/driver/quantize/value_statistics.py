"""Statistics of inner values, gathered while data goes by once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.driver.calibration import CompiledRunner, Feed
from graphopt.driver.precision.inner_values import portions
from graphopt.ir.graph import Graph, Value
from graphopt.passes.quant.statistics import ValueStatistics


def gather_statistics(
    graph: Graph, values: Sequence[Value], feeds: Iterable[Feed], runner: CompiledRunner, *, histogram: bool
) -> dict[str, ValueStatistics]:
    """What the values take on the feeds, by name. Each feed is looked at once, and forgotten.

    Args:
        values: of the graph, inputs or inner ones.
        runner: keeps as many compiled graphs as there are portions of values, or compiles them again for each feed.
        histogram: whether statistics have one.

    Raises:
        InputError: a value isn't finite; it is named.
    """
    found = {value.name: ValueStatistics(histogram) for value in values}
    batched = {value.name for value in values if has_samples(graph, value)}
    parts: list[list[str]] | None = None
    for feed in feeds:
        if parts is None:
            parts = list(portions(graph, list(found), feed))
        for part in parts:
            for name, array in runner(graph, part, feed).items():
                found[name].add(name, array, name in batched)
    return found


def has_samples(graph: Graph, value: Value) -> bool:
    """Whether the first axis of a value tells samples apart: the symbol that all inputs begin with."""
    firsts = {v.shape[0] if v.shape else None for v in graph.inputs}
    if len(firsts) != 1:
        return False
    (first,) = firsts
    return first is not None and not isinstance(first, int) and value.shape[:1] == (first,)

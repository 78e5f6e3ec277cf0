"""Extents as numbers in the graph: what ``Shape`` counts may only end in shape operands, which the surgery rewrites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.ir.graph import Graph, Node, Use, Value
from graphopt.ops.context import attr, known_array
from graphopt.passes.prune.labels import RuleContext, shape_of
from graphopt.passes.prune.rules.registry import labels_of

SHAPE_OPERANDS = frozenset({("Reshape", 1), ("Expand", 1), ("Resize", 3)})
"""Operands that the adjusting rules rewrite, wherever their numbers come from."""
_ARITHMETIC = frozenset({
    "Add", "Cast", "Concat", "Div", "Floor", "Gather", "Identity", "Mul", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze",
})  # fmt: skip


@labels_of("Shape")
def shape(c: RuleContext) -> None:
    """Extents that count channels may only serve as shapes."""
    x = c.labels(0)
    (count,) = c.out_shape()
    assert isinstance(count, int)
    counted = range(_first(c.node, len(x)), len(x))[:count]
    for use in c.node.out.uses:
        if not _is_shape(use, c.node.graph, set()):
            for axis in _seen_axes(use, counted):
                c.freeze(x[axis], f"{c.node.label} counts them for {use.node.label}")
    if c.node.out.is_output:
        for axis in counted:
            c.freeze(x[axis], f"{c.node.label} counts them for an output of the graph")
    c.set([None])


def stale_values(nodes: Iterable[Node], changed: dict[Value, set[int]]) -> set[Value]:
    """Values computed from extents that are about to change.

    Args:
        nodes: in order.
        changed: by value: the axes that lose something.
    """
    stale: set[Value] = set()
    for node in nodes:
        if node.domain:
            continue
        if node.op == "Shape" and node.inputs[0] in changed:
            count = shape_of(node.out)
            assert count is not None
            first = _first(node, len(node.inputs[0].shape))
            hit = any(first <= axis < first + int(str(count[0])) for axis in changed[node.inputs[0]])
        else:
            hit = node.op in _ARITHMETIC and any(
                v in stale for i, v in enumerate(node.inputs) if v is not None and (node.op, i) not in SHAPE_OPERANDS
            )
        if hit:
            stale.update(v for v in node.outputs if v is not None)
    return stale


def number(dim: object) -> int | None:
    """A static extent, None for a symbolic one."""
    return dim if isinstance(dim, int) else None


def reshape_target(before: Sequence[object], after: Sequence[object]) -> list[int | None]:
    """Constants that make a Reshape's target: 0 copies a symbolic extent, -1 is another, None where neither will do."""
    target: list[int | None] = []
    for axis, dim in enumerate(after):
        copied = axis < len(before) and before[axis] == dim
        target.append(dim if isinstance(dim, int) else 0 if copied and 0 not in after else -1)
    if target.count(-1) > 1 or (-1 in target and 0 in after):
        return [None if isinstance(t, int) and t < 0 else t for t in target]
    return target


def _first(node: Node, rank: int) -> int:
    start = int(attr(node, "start") or 0)
    return max(start + rank, 0) if start < 0 else min(start, rank)


def _seen_axes(use: Use, axes: Sequence[int]) -> list[int]:
    """Those of the counted axes whose extents the reader of a vector of extents can see."""
    operand = use.node.input(1)
    if use.node.domain or use.node.op != "Gather" or use.index != 0 or operand is None:
        return list(axes)
    positions = known_array(operand)
    return list(axes) if positions is None else [axes[int(p)] for p in positions.reshape(-1)]


def _is_shape(use: Use, graph: Graph | None, seen: set[Node]) -> bool:
    """Whether a vector of extents, used so, ends in shape operands only, all of which can be rewritten."""
    node = use.node
    if node.graph is not graph or node.domain:
        return False  # nodes of branches and bodies are left alone
    if (node.op, use.index) in SHAPE_OPERANDS:
        return _can_be_rewritten(node)
    if node.op not in _ARITHMETIC:
        return False
    if node in seen:
        return True
    seen.add(node)
    outs = [v for v in node.outputs if v is not None]
    return all(not v.is_output and all(_is_shape(u, graph, seen) for u in v.uses) for v in outs)


def _can_be_rewritten(node: Node) -> bool:
    source, result = node.input(0), node.output(0)
    before = None if source is None else shape_of(source)
    after = None if result is None else shape_of(result)
    if before is None or after is None:
        return False
    if node.op == "Reshape":
        return None not in reshape_target(before, after)
    lead = len(after) - len(before)
    return all(
        isinstance(dim, int) or (node.op == "Expand" and axis >= lead and before[axis - lead] == dim)
        for axis, dim in enumerate(after)
    )

"""Reshape and its relatives: which channel of the operand is which of the result, and shape operands that count channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.ir.graph import Node, Use
from graphopt.ops.context import attr, known_array
from graphopt.passes.prune.labels import RuleContext
from graphopt.passes.prune.rules.registry import AdjustContext, adjusts, labels_of
from graphopt.passes.prune.tokens import Labels

MAX_POSITIONS = 1 << 20
"""A block of axes with more elements than this is not analysed."""

_SHAPE_OPERANDS = frozenset({("Reshape", 1), ("Expand", 1), ("Resize", 3)})
"""Operands that the adjusting rules rewrite, wherever their numbers come from."""
_SHAPE_ARITHMETIC = frozenset({
    "Add", "Cast", "Concat", "Div", "Floor", "Gather", "Identity", "Mul", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze",
})  # fmt: skip


@labels_of("Reshape", "Flatten")
def reshape(c: RuleContext) -> None:
    """Axes are matched in blocks of equal extent. A merged index (i, j) goes with i or with j."""
    before, after = c.shape(0), c.out_shape()
    x = c.labels(0)
    out: list[Labels | None] = [None] * len(after)
    for ins, outs in blocks(before, after):
        made = _block(c, [x[i] for i in ins], [before[i] for i in ins], [after[j] for j in outs])
        for axis, labels in zip(outs, made):
            out[axis] = labels
    c.set(out)


def blocks(before: Sequence[object], after: Sequence[object]) -> Iterator[tuple[range, range]]:
    """Smallest runs of axes with the same number of elements on both sides; extents of 1 stand alone where they can."""
    i = j = 0
    while i < len(before) or j < len(after):
        a, b = _shortest(before[i:], after[j:])
        yield range(i, i + a), range(j, j + b)
        i, j = i + a, j + b


def _shortest(before: Sequence[object], after: Sequence[object]) -> tuple[int, int]:
    if before and after and before[0] == after[0]:
        return 1, 1
    if before and before[0] == 1:
        return 1, 0
    if after and after[0] == 1:
        return 0, 1
    for total in range(2, len(before) + len(after) + 1):
        for a in range(1, min(total, len(before) + 1)):
            b = total - a
            if 1 <= b <= len(after) and math.prod(before[:a]) == math.prod(after[:b]):  # type: ignore[arg-type]
                return a, b
    return len(before), len(after)


def _block(c: RuleContext, ins: list[Labels | None], before: list[object], after: list[object]) -> list[Labels | None]:
    if len(ins) == 1 and len(after) == 1:
        return ins
    if not after or not ins:
        return [None] * len(after)
    static = [d for d in (*before, *after) if isinstance(d, int)]
    count = math.prod(d for d in before if isinstance(d, int))
    if len(static) != len(before) + len(after) or count > MAX_POSITIONS:
        why = "with extents that are not known when compiling" if count <= MAX_POSITIONS else "into too many pieces"
        for labels in ins:
            c.freeze(labels, f"{c.node.label} mixes it {why}")
        return [None] * len(after)
    axes = [labels for labels in ins if labels is not None]
    whole = _merge(c, axes)
    return [whole] if len(after) == 1 else _divide(c, whole, static[len(before) :])


def _merge(c: RuleContext, axes: list[Labels]) -> Labels:
    """Labels of the flattened axes."""
    if len(axes) == 1:
        return axes[0]
    grids = [g.reshape(-1) for g in np.meshgrid(*axes, indexing="ij")]
    live = [g for g, labels in zip(grids, axes) if not _is_frozen(c, labels)]
    if not live:
        return grids[0]
    if len(live) == 1:
        return live[0]
    whole = c.fresh(len(live[0]))
    for token, parts in zip(whole.tolist(), zip(*(g.tolist() for g in live))):
        c.tokens.bind(token, parts)
    return whole


def _divide(c: RuleContext, whole: Labels, extents: Sequence[int]) -> list[Labels | None]:
    """Labels of the axes that a flat one is cut into."""
    if _is_frozen(c, whole):
        reason = c.tokens.reason(int(whole[0])) if len(whole) else None
        return [c.frozen(extent, reason) for extent in extents]
    axes = [c.fresh(extent) for extent in extents]
    grids = [g.reshape(-1).tolist() for g in np.meshgrid(*axes, indexing="ij")]
    for token, parts in zip(whole.tolist(), zip(*grids)):
        c.tokens.bind(token, parts)
    return list(axes)


def _is_frozen(c: RuleContext, labels: Labels) -> bool:
    return all(c.tokens.reason(token) is not None for token in set(labels.tolist()))


@adjusts("Reshape")
def follow_shape(a: AdjustContext) -> None:
    """The target by numbers: extents of the result, 0 for a symbolic one that is copied, -1 for another."""
    operand = a.node.input(1)
    lost = any(m is not None and not m.all() for m in (*a.inputs[0], *a.outputs[0]))
    if operand is None or (operand.is_const and not lost):
        return
    source, result = a.node.inputs[0], a.node.out
    assert source is not None
    target: list[int] = []
    for axis, mask in enumerate(a.outputs[0]):
        if mask is not None:
            target.append(int(mask.sum()))
        elif axis < len(source.shape) and source.shape[axis] == result.shape[axis]:
            target.append(0)
        else:
            target.append(-1)
    if target.count(-1) > 1 or (0 in target and any(m is not None and m.sum() == 0 for m in a.outputs[0])):
        if lost:
            raise NotImplementedError("more than one extent of the target is only known at run time")
        return
    a.editor.set_attr(a.node, "allowzero", None)
    a.replace_operand(1, np.asarray(target, np.int64))


@labels_of("Squeeze")
def squeeze(c: RuleContext) -> None:
    """Axes of extent 1 go."""
    x, after = c.labels(0), c.out_shape()
    operand = c.node.input(1)
    axes = known_array(operand) if operand is not None else None
    if axes is None:
        gone = {i for i, d in enumerate(c.shape(0)) if d == 1}
    else:
        gone = {int(i) % len(x) for i in axes.reshape(-1)}
    if len(x) - len(gone) != len(after):
        c.refuse(f"{c.node.label} squeezes axes that are not known when compiling")
        return
    c.set([labels for i, labels in enumerate(x) if i not in gone])


@adjusts("Squeeze")
def name_axes(a: AdjustContext) -> None:
    """Without names of axes, one that is left with a single channel would go too."""
    source = a.node.inputs[0]
    if a.node.input(1) is None and source is not None:
        gone = [i for i, d in enumerate(source.shape) if d == 1]
        a.replace_operand(1, np.asarray(gone, np.int64))


@labels_of("Unsqueeze")
def unsqueeze(c: RuleContext) -> None:
    """Axes of extent 1 come."""
    x, rank = c.labels(0), len(c.out_shape())
    operand = c.node.input(1)
    axes = known_array(operand) if operand is not None else None
    if axes is None:
        c.refuse(f"{c.node.label} puts axes at places that are not known when compiling")
        return
    new = {int(i) % rank for i in axes.reshape(-1)}
    old = iter(x)
    c.set([None if i in new else next(old) for i in range(rank)])


@labels_of("Expand")
def expand(c: RuleContext) -> None:
    """Stretched axes are made anew; the others pass."""
    x, before, after = c.labels(0), c.shape(0), c.out_shape()
    lead = len(after) - len(before)
    c.set([x[i - lead] if i >= lead and before[i - lead] == after[i] else None for i in range(len(after))])
    for labels, old, new in zip(x, before, after[lead:]):
        if old != new and old != 1:
            c.freeze(labels, f"{c.node.label} stretches it")


@adjusts("Expand")
def follow_extent(a: AdjustContext) -> None:
    """1 asks for the operand's own extent, whatever is left of it."""
    operand, source = a.node.input(1), a.node.input(0)
    assert operand is not None
    assert source is not None
    lost = any(m is not None and not m.all() for m in a.outputs[0])
    if operand.is_const and not lost:
        return
    after = a.node.out.shape
    lead = len(after) - len(source.shape)
    target: list[int] = []
    for axis, dim in enumerate(after):
        if axis >= lead and source.shape[axis - lead] == dim:
            target.append(1)
        elif isinstance(dim, int):
            target.append(dim)
        elif lost:
            raise NotImplementedError("an extent of the target is only known at run time")
        else:
            return
    a.replace_operand(1, np.asarray(target, np.int64))


@labels_of("Shape")
def shape(c: RuleContext) -> None:
    """Extents that count channels may only serve as shapes, which the surgery rewrites."""
    x = c.labels(0)
    start = int(attr(c.node, "start") or 0)
    start = max(start + len(x), 0) if start < 0 else min(start, len(x))
    (count,) = c.out_shape()
    assert isinstance(count, int)
    counted = range(start, start + count)
    for use in c.node.out.uses:
        if not _is_shape(use, set()):
            for axis in _seen_axes(use, counted):
                c.freeze(x[axis], f"{c.node.label} counts them for {use.node.label}")
    if c.node.out.is_output:
        for axis in counted:
            c.freeze(x[axis], f"{c.node.label} counts them for an output of the graph")
    c.set([None])


def _seen_axes(use: Use, axes: Sequence[int]) -> list[int]:
    """Those of the counted axes whose extents the reader of a vector of extents can see."""
    operand = use.node.input(1)
    if use.node.domain or use.node.op != "Gather" or use.index != 0 or operand is None:
        return list(axes)
    positions = known_array(operand)
    return list(axes) if positions is None else [axes[int(p)] for p in positions.reshape(-1)]


def _is_shape(use: Use, seen: set[Node]) -> bool:
    """Whether a vector of extents, used so, ends in shape operands only."""
    node = use.node
    if (node.op, use.index) in _SHAPE_OPERANDS and not node.domain:
        return True
    if node in seen:
        return True
    seen.add(node)
    if node.domain or node.op not in _SHAPE_ARITHMETIC:
        return False
    outs = [v for v in node.outputs if v is not None]
    return all(not v.is_output and all(_is_shape(u, seen) for u in v.uses) for v in outs)

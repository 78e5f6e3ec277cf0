"""Reshape and its relatives: which channel of the operand is which of the result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.ops.context import attr, known_array
from graphopt.passes.prune.labels import RuleContext
from graphopt.passes.prune.rules.registry import AdjustContext, CannotFollow, Mask, adjusts, labels_of
from graphopt.passes.prune.rules.shape import number, reshape_target
from graphopt.passes.prune.tokens import Labels

MAX_POSITIONS = 1 << 20
"""A block of axes with more elements than this is not analysed."""


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
    source = a.node.inputs[0]
    assert source is not None
    if not (a.lost or 1 in a.stale):
        return
    after = [_left(dim, mask) for dim, mask in zip(a.node.out.shape, a.outputs[0])]
    target = reshape_target([None if isinstance(d, int) else d for d in source.shape], after)
    if None not in target:
        a.editor.set_attr(a.node, "allowzero", 1 if 0 in after else None)
    elif bool(attr(a.node, "allowzero")) or 0 in after:
        raise CannotFollow("its result is empty, and extents of it are only known at run time")
    a.renumber(1, target)


def _left(dim: object, mask: Mask | None) -> object:
    return dim if mask is None else int(mask.sum())


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
    if a.lost and a.node.input(1) is None and source is not None:
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
    source = a.node.input(0)
    assert source is not None
    if not (a.lost or 1 in a.stale):
        return
    after = a.node.out.shape
    lead = len(after) - len(source.shape)
    own = [axis >= lead and source.shape[axis - lead] == dim for axis, dim in enumerate(after)]
    a.renumber(1, [1 if copied else number(dim) for copied, dim in zip(own, after)])

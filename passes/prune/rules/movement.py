"""Operators that only move data: labels move the same way."""

from __future__ import annotations

import numpy as np

from graphopt.ops.context import InferContext, attr, known_array
from graphopt.ops.movement import pad_amounts, slice_bounds
from graphopt.passes.prune.labels import RuleContext
from graphopt.passes.prune.rules.registry import AdjustContext, adjusts, labels_of
from graphopt.passes.prune.tokens import Labels


def _infer_context(c: RuleContext) -> InferContext:
    graph = c.node.graph
    assert graph is not None
    return InferContext(c.node, graph)


@labels_of("Transpose")
def transpose(c: RuleContext) -> None:
    """Axes change places."""
    x = c.labels(0)
    order = attr(c.node, "perm") or range(len(x))[::-1]
    c.set([x[i] for i in order])


@labels_of("Concat")
def concat(c: RuleContext) -> None:
    """Labels of the joined axis stand one after another; the other axes lose the same indices."""
    at = int(attr(c.node, "axis")) % len(c.out_shape())
    present = [i for i, v in enumerate(c.node.inputs) if v is not None]
    first = c.labels(present[0])
    for index in present[1:]:
        for axis, labels in enumerate(c.labels(index)):
            if axis != at:
                c.unify(first[axis], labels)
    pieces = [c.labels(index)[at] for index in present]
    joined: Labels | None = None
    if all(piece is not None for piece in pieces):
        joined = np.concatenate([piece for piece in pieces if piece is not None])
    else:
        for piece in pieces:
            c.freeze(piece, f"{c.node.label} joins it with an extent that is not known when compiling")
    c.set([joined if axis == at else labels for axis, labels in enumerate(first)])


@labels_of("Split")
def split(c: RuleContext) -> None:
    """Each result has its own part of the labels."""
    x = c.labels(0)
    at = int(attr(c.node, "axis")) % len(x)
    start = 0
    for index, out in enumerate(c.node.outputs):
        extent = out.shape[at] if out is not None else None
        labels = x[at]
        if not isinstance(extent, int) or labels is None:
            c.refuse(f"{c.node.label} cuts at places that are not known when compiling")
            return
        c.set([labels[start : start + extent] if axis == at else other for axis, other in enumerate(x)], index)
        start += extent


@adjusts("Split")
def follow_sizes(a: AdjustContext) -> None:
    """Parts of the sizes that are left."""
    at = int(attr(a.node, "axis")) % len(a.inputs[0])
    masks = [out[at] for out in a.outputs]
    if all(m is None or m.all() for m in masks):
        return
    a.replace_operand(1, np.asarray([int(m.sum()) for m in masks if m is not None], np.int64))
    a.editor.set_attr(a.node, "num_outputs", None)


@labels_of("Slice")
def slice_(c: RuleContext) -> None:
    """A range of the labels; what a stride skips could not be renumbered, so such axes stay."""
    x = c.labels(0)
    bounds = slice_bounds(_infer_context(c))
    # Bounds are rewritten one by one if they are constants, all together if they are numbers now.
    fixed = all(v is None or v.is_const for v in c.node.inputs[1:]) or all(
        _is_whole(cut, dim) or all(isinstance(d, int) for d in cut) for cut, dim in zip(bounds, c.shape(0))
    )
    out: list[Labels | None] = []
    for labels, cut, dim in zip(x, bounds, c.shape(0)):
        first, extent, step = cut
        if labels is None or _is_whole(cut, dim):
            out.append(labels)
        elif fixed and isinstance(first, int) and isinstance(extent, int) and isinstance(step, int) and abs(step) == 1:
            out.append(labels[first + step * np.arange(extent)])
        else:
            c.freeze(labels, f"{c.node.label} takes every few of them, or a range only known at run time")
            out.append(None)
    c.set(out)


def _is_whole(cut: tuple[object, object, object], dim: object) -> bool:
    return cut == (0, dim, 1)


@adjusts("Slice")
def follow_bounds(a: AdjustContext) -> None:
    """The same elements by their new numbers."""
    graph, source = a.node.graph, a.node.input(0)
    assert graph is not None
    assert source is not None
    # The types still are those of the whole graph: only constants and attributes have changed so far.
    bounds = slice_bounds(InferContext(a.node, graph))
    cut = {axis: b for axis, (b, dim) in enumerate(zip(bounds, source.shape)) if not _is_whole(b, dim)}
    moved = {axis for axis in cut if (mask := a.inputs[0][axis]) is not None and not mask.all()}
    if not moved:
        return  # what is taken whole still is: bounds are clamped
    rows: dict[int, tuple[int, int, int]] = {}  # by axis: start, end, step
    operands = [a.node.input(i) for i in (1, 2, 3, 4)]
    if all(v is None or v.is_const for v in operands):
        starts, ends, axes, steps = (None if v is None or v.data is None else v.data.tolist() for v in operands)
        assert starts is not None
        assert ends is not None
        for i, axis in enumerate(axes or range(len(starts))):
            rows[int(axis) % len(bounds)] = (starts[i], ends[i], steps[i] if steps else 1)
    else:
        rows = dict.fromkeys(cut, (0, 0, 0))
        moved = set(cut)
    for axis in moved:
        first, extent, step = cut[axis]
        assert isinstance(first, int)
        assert isinstance(extent, int)
        assert isinstance(step, int)
        mask = a.inputs[0][axis]
        taken = first + step * np.arange(extent)
        if mask is not None:
            taken = (np.cumsum(mask) - 1)[taken[mask[taken]]]
        end = int(taken[-1]) + (1 if step > 0 else -1) if len(taken) else 0
        rows[axis] = (int(taken[0]) if len(taken) else 0, end if end >= 0 else np.iinfo(np.int64).min, step)
    columns = ([r[0] for r in rows.values()], [r[1] for r in rows.values()], list(rows), [r[2] for r in rows.values()])
    left_out = {3: list(range(len(rows))), 4: [1] * len(rows)}
    for index, values in zip((1, 2, 3, 4), columns):
        if a.node.input(index) is not None or values != left_out[index]:
            a.replace_operand(index, np.asarray(values, np.int64))


@labels_of("Gather")
def gather(c: RuleContext) -> None:
    """Constant positions along an axis pick labels; positions from run time may ask for any index."""
    x = c.labels(0)
    at = int(attr(c.node, "axis")) % len(x)
    picked_from, index_shape = x[at], c.out_shape()[at : at + len(c.shape(1))]
    operand = c.node.input(1)
    assert operand is not None
    positions = known_array(operand)
    middle: list[Labels | None] = [None] * len(index_shape)
    if picked_from is not None and positions is not None and operand.is_const:
        wrapped = np.where(positions < 0, positions + len(picked_from), positions)
        if positions.ndim == 1:
            middle = [picked_from[wrapped]]
        else:  # all that are asked for must be there
            c.freeze(picked_from[wrapped.reshape(-1)], f"{c.node.label} picks it")
    else:
        c.freeze(picked_from, f"{c.node.label} picks along it by positions from run time")
    if not operand.is_const:
        for labels in c.labels(1):
            c.freeze(labels, f"they are positions for {c.node.label}")
    c.set([*x[:at], *middle, *x[at + 1 :]])


@adjusts("Gather")
def follow_positions(a: AdjustContext) -> None:
    """The same elements by their new numbers."""
    at = int(attr(a.node, "axis")) % len(a.inputs[0])
    mask = a.inputs[0][at]
    if mask is None or mask.all():
        return
    operand = a.node.input(1)
    assert operand is not None
    assert operand.data is not None
    positions = np.where(operand.data < 0, operand.data + len(mask), operand.data)
    rank = np.cumsum(mask) - 1
    kept = positions[mask[positions]] if positions.ndim == 1 else positions
    a.replace_operand(1, rank[kept].astype(operand.data.dtype))


@labels_of("Pad")
def pad(c: RuleContext) -> None:
    """Axes without padding pass."""
    x = c.labels(0)
    out: list[Labels | None] = []
    for labels, (before, after) in zip(x, pad_amounts(_infer_context(c))):
        if before == 0 and after == 0:
            out.append(labels)
        else:
            c.freeze(labels, f"{c.node.label} pads it")
            out.append(None)
    c.set(out)


@labels_of("DepthToSpace")
def depth_to_space(c: RuleContext) -> None:
    """C = b*b*K: position k of every block goes together."""
    x = c.labels(0)
    block = int(attr(c.node, "blocksize"))
    channels = x[1]
    if channels is None:
        c.refuse(f"{c.node.label} has a number of channels that is not known when compiling")
        return
    width = len(channels) // (block * block)
    out = c.fresh(width)
    crd = str(attr(c.node, "mode") or "DCR") == "CRD"
    c.tokens.unify(channels, out.repeat(block * block) if crd else np.tile(out, block * block))
    for axis in x[2:]:
        c.freeze(axis, f"{c.node.label} moves channels into space")
    c.set([x[0], out, None, None])


@labels_of("SpaceToDepth")
def space_to_depth(c: RuleContext) -> None:
    """Every block of the result holds all of x's channels."""
    x = c.labels(0)
    block = int(attr(c.node, "blocksize"))
    for axis in x[2:]:
        c.freeze(axis, f"{c.node.label} moves space into channels")
    c.set([x[0], None if x[1] is None else np.tile(x[1], block * block), None, None])


@labels_of("Tile")
def tile(c: RuleContext) -> None:
    """Repeated channels go together with the first of them."""
    x, before, after = c.labels(0), c.shape(0), c.out_shape()
    out: list[Labels | None] = []
    for labels, old, new in zip(x, before, after):
        if labels is not None and isinstance(old, int) and isinstance(new, int) and old and new % old == 0:
            out.append(np.tile(labels, new // old) if new != old else labels)
        else:
            c.freeze(labels, f"{c.node.label} repeats it a number of times that is not known when compiling")
            out.append(None)
    for labels in c.labels(1):
        c.freeze(labels, f"they are numbers of repeats for {c.node.label}")
    c.set(out)

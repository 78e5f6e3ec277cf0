"""Attention and rotary embedding: heads go as a whole, and so does a position within every head."""

from __future__ import annotations

import math

from graphopt.ops.context import attr
from graphopt.passes.prune.labels import RuleContext
from graphopt.passes.prune.rules.contraction import bind_product
from graphopt.passes.prune.rules.registry import AdjustContext, adjusts, labels_of
from graphopt.passes.prune.tokens import Labels

_HEADS, _ROWS = 1, 2  # axes of data of rank 4: [batch, heads, rows, width]


@labels_of("Attention")
def attention(c: RuleContext) -> None:
    """Y = softmax(Q K^T) V. Heads go in Q, K, V and Y together; the width of a head in Q and K, or in V and Y.

    Data is [batch, heads, rows, width], or [batch, rows, heads * width] with the numbers of heads as attributes.
    """
    packed = len(c.shape(0)) == 3
    counts = [c.node.attrs.get("q_num_heads"), c.node.attrs.get("kv_num_heads")]
    if not packed:
        counts = [c.shape(0)[_HEADS], c.shape(1)[_HEADS]]
    widths = [c.shape(i)[-1] for i in (0, 1, 2)]
    if not all(isinstance(d, int) for d in (*counts, *widths)):
        c.refuse(f"{c.node.label} has heads whose number or width is not known when compiling")
        return
    heads, shared = (int(str(n)) for n in counts)
    width, v_width = (int(str(widths[i])) // (shared if packed else 1) for i in (1, 2))
    if heads == shared and not _heads_are_told_apart(c):
        head = kv_head = c.fresh(heads)
    else:
        why = "has a mask for each head" if heads == shared else "lets several heads of Q share one of K and V"
        head, kv_head = (c.frozen(n, f"{c.node.label} {why}") for n in (heads, shared))
    place, v_place = c.fresh(width), c.fresh(v_width)
    for index, rows, columns in ((0, head, place), (1, kv_head, place), (2, kv_head, v_place)):
        _tie(c, index, rows, columns)
    for index, columns in ((4, place), (5, v_place)):
        if c.has(index):
            _tie(c, index, kv_head, columns)
    for index in (3, 6):
        if c.has(index):
            for labels in c.labels(index):
                c.freeze(labels, f"it says what {c.node.label} looks at")
    if packed:
        whole = c.fresh(heads * v_width)
        bind_product(c, whole, head, v_place)
        c.set([None, None, whole])
    else:
        c.set([None, head, None, v_place])
    for index, own in (
        (1, [None, kv_head, None, place]),
        (2, [None, kv_head, None, v_place]),
        (3, [None, head, None, None]),
    ):
        c.set(own, index)


def _heads_are_told_apart(c: RuleContext) -> bool:
    return c.has(3) and len(c.shape(3)) == 4 and c.shape(3)[_HEADS] != 1


def _tie(c: RuleContext, index: int, head: Labels, place: Labels) -> None:
    """Heads and places of an operand; batch and rows stay."""
    labels = c.labels(index)
    for axis in labels[:2] if len(labels) == 3 else (labels[0], labels[_ROWS]):
        c.freeze(axis, f"{c.node.label} works over rows")
    if len(labels) == 3:
        assert labels[2] is not None
        bind_product(c, labels[2], head, place)
    else:
        c.unify(head, labels[_HEADS])
        c.unify(place, labels[3])


@adjusts("Attention")
def follow_heads(a: AdjustContext) -> None:
    """Heads that are left; and the scale, which otherwise would follow from the width that is left."""
    if not a.lost:
        return
    q = a.inputs[0][-1]
    assert q is not None
    heads = int(a.node.attrs["q_num_heads"]) if len(a.inputs[0]) == 3 else 1
    by_head = q.reshape(heads, -1)
    if len(a.inputs[0]) == 3:
        kept = int(by_head.any(axis=1).sum())
        # Where Q and K have unequally many, none of them goes.
        if kept != heads:
            a.editor.set_attr(a.node, "q_num_heads", kept)
            a.editor.set_attr(a.node, "kv_num_heads", kept)
    if not by_head.any(axis=0).all() and a.node.attrs.get("scale") is None:
        a.editor.set_attr(a.node, "scale", 1.0 / math.sqrt(by_head.shape[1]))


@labels_of("RotaryEmbedding")
def rotary(c: RuleContext) -> None:
    """Places within a head are turned in pairs and stay; heads go as a whole."""
    x = c.labels(0)
    why = f"{c.node.label} turns them in pairs"
    for index in range(1, len(c.node.inputs)):
        if c.has(index):
            for labels in c.labels(index):
                c.freeze(labels, f"{c.node.label} takes angles from it")
    if len(x) == 4:
        for axis in (0, _ROWS, 3):
            c.freeze(x[axis], why)
        c.set([None, x[_HEADS], None, None])
        return
    heads = int(attr(c.node, "num_heads") or 0)
    for labels in x[:2]:
        c.freeze(labels, why)
    if not heads or x[2] is None:
        c.freeze(x[2], why)
        c.set([None, None, None])
    else:
        c.unify(x[2], c.fresh(heads).repeat(len(x[2]) // heads))
        c.set([None, None, x[2]])


@adjusts("RotaryEmbedding")
def follow_rotated_heads(a: AdjustContext) -> None:
    """Heads that are left."""
    if a.lost and len(a.inputs[0]) == 3:
        mask = a.inputs[0][2]
        assert mask is not None
        heads = int(a.node.attrs["num_heads"])
        a.editor.set_attr(a.node, "num_heads", int(mask.reshape(heads, -1).any(axis=1).sum()))

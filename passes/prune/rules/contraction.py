"""Layers that sum over channels: Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM and its kin."""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Use
from graphopt.ops.context import attr
from graphopt.ops.linear import kept_axis, summed_axis
from graphopt.passes.prune.balance import Balance, fits_product
from graphopt.passes.prune.labels import Role, RuleContext
from graphopt.passes.prune.rules.registry import AdjustContext, adjusts, labels_of
from graphopt.passes.prune.tokens import Labels


@labels_of("Conv", "ConvTranspose")
def convolution(c: RuleContext, weight: int = 1, bias: int = 2) -> None:
    """x: [N, G*K, ...]; Conv W: [G*M, K, ...], ConvTranspose W: [G*K, M, ...]; y: [N, G*M, ...].

    Channel (g, k) of x goes with group g or with position k of every group, (g, m) of y with group g or position m.
    """
    transposed = c.node.op == "ConvTranspose"
    groups = int(attr(c.node, "group") or 1)
    x = c.labels(0)
    if groups == 1:
        c.tie(weight, 0 if transposed else 1, x[1])
    w = c.labels(weight)
    for kernel in w[2:]:
        c.freeze(kernel, f"it is a tap of {c.node.label}'s kernel")
    for axis in x[2:]:
        c.freeze(axis, f"{c.node.label} works over space")
    inner, outer = (w[1], w[0]) if not transposed else (w[0], w[1])
    if x[1] is None or inner is None or outer is None:
        c.refuse(f"{c.node.label} has a number of channels that is not known when compiling")
        return
    if groups == 1:
        channels = outer
    elif not transposed and not _by_group_or_position(c, x[1], groups):
        reason = f"{c.node.label} needs equally many channels in every group"
        c.freeze(inner, reason)  # each group loses other positions: the adjusting rule cuts the weights
        channels = outer
        for side in (x[1], channels):
            c.labelling.balances.append(Balance(side, groups, reason))
    else:
        group = c.fresh(groups)
        if transposed:
            c.unify(x[1], w[0])
            inner = c.fresh(len(x[1]) // groups)
            channels = c.fresh(groups * len(outer))
            bind_product(c, channels, group, outer)
        else:
            channels = outer
            bind_product(c, channels, group, c.fresh(len(channels) // groups))
        bind_product(c, x[1], group, inner)
    if c.has(bias):
        c.tie(bias, 0, channels)
        c.role(bias, 0, Role.PARAMETER)
    c.role(weight, 1 if transposed else 0, Role.OUT)
    c.role(weight, 0 if transposed else 1, Role.IN)
    c.set([x[0], channels, *[None] * (len(c.out_shape()) - 2)])


def _by_group_or_position(c: RuleContext, channels: Labels, groups: int) -> bool:
    """Whether whole groups and equal positions are the better choice: many small groups, and channels so far free.
    (Computed weights can't be cut group by group.)"""
    width = len(channels) // groups
    cut = c.node.op == "Conv" and isinstance(c.slot(1), Use)
    return width == 1 or not cut or (groups > width and fits_product(c.tokens, channels, groups))


def bind_product(c: RuleContext, whole: Labels, rows: Labels, columns: Labels) -> None:
    """Index (i, j) of the whole axis goes with row i or with column j."""
    width = len(columns)
    for index, token in enumerate(whole.tolist()):
        c.tokens.bind(token, (int(rows[index // width]), int(columns[index % width])))


@adjusts("Conv", "ConvTranspose")
def follow_groups(a: AdjustContext) -> None:
    """The number of groups that are left; where each group loses other positions, the weights group by group."""
    groups = int(attr(a.node, "group") or 1)
    source, result = a.inputs[0][1], a.outputs[0][1]
    if groups == 1 or source is None or result is None:
        return
    if a.node.op == "ConvTranspose":
        a.editor.set_attr(a.node, "group", int(result.sum()) // a.kept(1, 1))
        return
    inner = a.inputs[1][1]
    assert inner is not None
    per_group = source.reshape(groups, -1)
    if not inner.all() or not per_group.any(axis=1).all() or ((per_group == per_group[0]).all() and per_group.all()):
        a.editor.set_attr(a.node, "group", int(source.sum()) // int(inner.sum()))
    elif not source.all():
        weight = a.node.inputs[1]
        assert weight is not None
        assert weight.data is not None
        rows = result.reshape(groups, -1)
        blocks = weight.data.reshape(groups, -1, *weight.data.shape[1:])
        cut = [block[row][:, column] for block, row, column in zip(blocks, rows, per_group)]
        a.replace_operand(1, np.concatenate(cut))


@labels_of("Gemm")
def gemm(c: RuleContext) -> None:
    """y[m, n] = sum over k of a[m, k] b[k, n], plus c[m, n] broadcast."""
    a = c.labels(0)
    rows, summed = a[kept_axis(c.node, 0)], a[summed_axis(c.node, 0)]
    c.tie(1, summed_axis(c.node, 1), summed)
    columns = c.labels(1)[kept_axis(c.node, 1)]
    if c.has(2):
        shape = c.shape(2)
        for axis, target in ((len(shape) - 1, columns), (len(shape) - 2, rows)):
            if axis >= 0 and shape[axis] != 1:
                c.tie(2, axis, target)
        if shape:
            c.role(2, len(shape) - 1, Role.PARAMETER)
    for index in (0, 1):
        c.role(index, summed_axis(c.node, index), Role.IN)
        c.role(index, kept_axis(c.node, index), Role.OUT)
    c.set([rows, columns])


@labels_of("MatMul")
def matmul(c: RuleContext, right: int = 1) -> None:
    """y[..., m, n] = sum over k of a[..., m, k] b[..., k, n], with numpy's rules for vectors and broadcast."""
    sa, sb = list(c.shape(0)), list(c.shape(right))
    a = list(c.labels(0))
    c.tie(right, max(len(sb) - 2, 0), a[-1])
    b = list(c.labels(right))
    c.role(0, len(a) - 1, Role.IN)
    c.role(right, max(len(b) - 2, 0), Role.IN)
    if len(a) > 1:
        c.role(0, len(a) - 2, Role.OUT)
    if len(b) > 1:
        c.role(right, len(b) - 1, Role.OUT)
    batch = broadcast_labels(
        c, [(sa[:-2], a[:-2]), (sb[:-2], b[:-2])], len(c.out_shape()) - (len(a) > 1) - (len(b) > 1)
    )
    c.set([*batch, *([a[-2]] if len(a) > 1 else []), *([b[-1]] if len(b) > 1 else [])])


def broadcast_labels(
    c: RuleContext, operands: list[tuple[list[object], list[Labels | None]]], rank: int
) -> list[Labels | None]:
    """Labels of a broadcast: axes aligned at the end; those that are not stretched lose the same indices.

    Args:
        operands: shape and labels of each.
        rank: of the result.
    """
    out: list[Labels | None] = [None] * rank
    for axis in range(rank):
        found = [
            labels[len(shape) - rank + axis]
            for shape, labels in operands
            if len(shape) - rank + axis >= 0 and shape[len(shape) - rank + axis] != 1
        ]
        for other in found[1:]:
            c.unify(found[0], other)
        out[axis] = found[0] if found else None
    return out


@labels_of("Einsum")
def einsum(c: RuleContext) -> None:
    """Axes with the same letter lose the same indices; letters missing in the result are summed over."""
    equation = str(attr(c.node, "equation")).replace(" ", "")
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    if not arrow or "." in equation or len(set(result)) != len(result):
        c.refuse(f"{c.node.label} is an einsum with an implicit result or an ellipsis")
        return
    known: dict[str, Labels | None] = {}
    for index, term in enumerate(letters):
        for axis, (letter, labels) in enumerate(zip(term, c.labels(index), strict=True)):
            if c.shape(index)[axis] == 1:
                continue  # stretched, if another operand has more
            if letter in known:
                c.unify(known[letter], labels)
            known.setdefault(letter, labels)
            c.role(index, axis, Role.OUT if letter in result else Role.IN)
    c.set([known.get(letter) for letter in result])


@labels_of("LSTM", "GRU", "RNN")
def recurrent(c: RuleContext) -> None:
    """Channels of the input sequence are summed over; the hidden state stays whole."""
    reason = f"it belongs to the state of {c.node.label}"
    x, w = c.labels(0), c.labels(1)
    c.unify(x[2], w[2])
    c.role(1, 2, Role.IN)
    for labels in (x[0], x[1], w[0], w[1]):
        c.freeze(labels, reason)
    for index in range(2, len(c.node.inputs)):
        if c.has(index):
            for labels in c.labels(index):
                c.freeze(labels, reason)
    for index, out in enumerate(c.node.outputs):
        if out is not None:
            c.set([None] * len(c.out_shape(index)), index)

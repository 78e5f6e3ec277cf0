"""Normalisations: per-channel ones go channel by channel; those whose mean and variance run over channels keep them."""

from __future__ import annotations

from graphopt.ops.context import attr
from graphopt.passes.prune.labels import Role, RuleContext
from graphopt.passes.prune.rules.registry import AdjustContext, adjusts, labels_of


def _over_channels(c: RuleContext) -> str:
    return f"{c.node.label} computes over all of them: without some, the result for the others would change"


@labels_of("BatchNormalization")
def batch_norm(c: RuleContext) -> None:
    """Four parameters a channel."""
    if attr(c.node, "training_mode"):
        c.refuse(f"{c.node.label} is in training mode")
        return
    x = c.labels(0)
    if len(x) < 2:
        c.refuse(f"{c.node.label} has a single channel")
        return
    for index in range(1, 5):
        c.tie(index, 0, x[1])
        c.role(index, 0, Role.PARAMETER)
    c.set(x)


@labels_of("InstanceNormalization")
def instance_norm(c: RuleContext) -> None:
    """Statistics of each channel alone."""
    x = c.labels(0)
    for index in (1, 2):
        c.tie(index, 0, x[1])
        c.role(index, 0, Role.PARAMETER)
    for axis in x[2:]:
        c.freeze(axis, _over_channels(c))
    c.set(x)


@labels_of("GroupNormalization")
def group_norm(c: RuleContext) -> None:
    """Statistics of each group of channels: a group goes whole or stays whole."""
    x = c.labels(0)
    groups = int(attr(c.node, "num_groups"))
    if x[1] is None:
        c.refuse(f"{c.node.label} has a number of channels that is not known when compiling")
        return
    width = len(x[1]) // groups
    group = c.fresh(groups) if groups > 1 else c.frozen(groups, _over_channels(c))
    c.tokens.unify(x[1], group.repeat(width))
    for index in (1, 2):
        c.tie(index, 0, x[1] if c.shape(index)[0] == len(x[1]) else group)
        c.role(index, 0, Role.PARAMETER)
    for axis in x[2:]:
        c.freeze(axis, _over_channels(c))
    c.set(x)


@adjusts("GroupNormalization")
def follow_groups(a: AdjustContext) -> None:
    """The number of groups that are left."""
    groups = int(attr(a.node, "num_groups"))
    mask = a.inputs[0][1]
    assert mask is not None
    a.editor.set_attr(a.node, "num_groups", int(mask.reshape(groups, -1).any(axis=1).sum()))


@labels_of("LayerNormalization", "RMSNormalization")
def layer_norm(c: RuleContext) -> None:
    """Statistics over the last axes, which stay; the axes before them are free."""
    x = list(c.labels(0))
    start = int(attr(c.node, "axis")) % len(x)
    for axis in x[start:]:
        c.freeze(axis, _over_channels(c))
    for index in (1, 2):
        if c.has(index):
            shape = c.shape(index)
            for place, dim in enumerate(shape):
                if dim != 1:
                    c.tie(index, place, x[place - len(shape)])
    c.set(x)
    for index in range(1, len(c.node.outputs)):
        if c.node.output(index) is not None:
            c.set([*x[:start], *[None] * (len(x) - start)], index)


@labels_of("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def along_axis(c: RuleContext) -> None:
    """The axis that is normalised stays whole. (Lp norms of zeros add nothing, but the axis is seldom worth it.)"""
    x = c.labels(0)
    c.freeze(x[int(attr(c.node, "axis")) % len(x)], _over_channels(c))
    c.set(x)


@labels_of("LRN")
def local_response(c: RuleContext) -> None:
    """Neighbouring channels go into each result."""
    x = c.labels(0)
    c.freeze(x[1], f"{c.node.label} mixes neighbouring channels")
    c.set(x)


@labels_of("MeanVarianceNormalization")
def mean_variance(c: RuleContext) -> None:
    """Statistics over the axes of the attribute."""
    x = c.labels(0)
    for axis in attr(c.node, "axes") or (0, 2, 3):
        c.freeze(x[axis], _over_channels(c))
    c.set(x)

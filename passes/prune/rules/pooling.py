"""Poolings, resampling and other operators that treat every channel alike: batch and channels pass, space stays."""

from __future__ import annotations

from graphopt.ir.graph import Node, Use
from graphopt.ops.context import attr
from graphopt.passes.prune.labels import Role, RuleContext
from graphopt.passes.prune.rules.registry import AdjustContext, adjusts, labels_of
from graphopt.passes.prune.tokens import Labels


@labels_of(
    "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"
)  # fmt: skip
def pool(c: RuleContext) -> None:
    """x: [N, C, ...]. The second result of MaxPool holds positions in the flat tensor, which counts its channels."""
    if c.node.output(1) is not None:
        c.refuse(f"{c.node.label} returns positions in the flat tensor")
    else:
        _pass_channels(c)


@labels_of("GridSample", "RoiAlign", "MaxRoiPool")
def sample(c: RuleContext) -> None:
    """Positions come from the other operands, which stay whole; channels of x pass."""
    for index in range(1, len(c.node.inputs)):
        if c.has(index):
            for axis in c.labels(index):
                c.freeze(axis, f"{c.node.label} takes positions from it")
    c.freeze(c.labels(0)[0], f"{c.node.label} picks images of the batch")
    c.set([None, c.labels(0)[1], *[None] * (len(c.out_shape()) - 2)])


def _pass_channels(c: RuleContext) -> None:
    x = c.labels(0)
    for axis in x[2:]:
        c.freeze(axis, f"{c.node.label} works over space")
    c.set([x[0], x[1], *[None] * (len(c.out_shape()) - 2)])


@labels_of("Resize")
def resize(c: RuleContext) -> None:
    """Axes that are neither stretched nor cropped pass, the others are interpolated along."""
    x, before, after = c.labels(0), c.shape(0), c.out_shape()
    axes = _resized_axes(c.node, len(x))
    scaled = c.node.input(2) if not c.has(3) else None
    scales = {} if scaled is None or scaled.data is None else dict(zip(axes, scaled.data.reshape(-1).tolist()))
    fitted = c.has(3) and (attr(c.node, "keep_aspect_ratio_policy") or "stretch") != "stretch"
    cropped = attr(c.node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    out: list[Labels | None] = []
    for axis, labels in enumerate(x):
        touched = axis in axes and (fitted or cropped or scales.get(axis, 1.0) != 1.0)
        if touched or before[axis] != after[axis]:
            c.freeze(labels, f"{c.node.label} interpolates along it")
            out.append(None)
        else:
            out.append(labels)
    c.set(out)


@adjusts("Resize")
def follow_sizes(a: AdjustContext) -> None:
    """Sizes by numbers: an axis that passes keeps what is left of it."""
    masks = [a.outputs[0][axis] for axis in _resized_axes(a.node, len(a.outputs[0]))]
    lost = any(mask is not None and not mask.all() for mask in masks)
    if a.node.input(3) is not None and (lost or 3 in a.stale):
        a.renumber(3, [None if mask is None else int(mask.sum()) for mask in masks])


def _resized_axes(node: Node, rank: int) -> list[int]:
    return [int(axis) % rank for axis in attr(node, "axes") or range(rank)]


@labels_of("CenterCropPad")
def center(c: RuleContext) -> None:
    """Axes that keep their extent pass."""
    out: list[Labels | None] = []
    for labels, before, after in zip(c.labels(0), c.shape(0), c.out_shape()):
        if before != after:
            c.freeze(labels, f"{c.node.label} crops or pads it")
        out.append(labels if before == after else None)
    if not c.has(1) or not isinstance(c.slot(1), Use):
        c.refuse(f"{c.node.label} crops to an extent that is only known at run time")
        return
    c.set(out)


@adjusts("CenterCropPad")
def follow_extents(a: AdjustContext) -> None:
    """Axes that pass keep what is left of them."""
    masks = [a.outputs[0][axis] for axis in _resized_axes(a.node, len(a.outputs[0]))]
    if a.lost:
        a.renumber(1, [None if mask is None else int(mask.sum()) for mask in masks])


@labels_of("DeformConv")
def deformable(c: RuleContext) -> None:
    """Like a convolution; offsets and masks are the same for all channels, and stay."""
    if int(attr(c.node, "group") or 1) != 1 or int(attr(c.node, "offset_group") or 1) != 1:
        c.refuse(f"{c.node.label} has groups")
        return
    x = c.labels(0)
    c.tie(1, 1, x[1])
    w = c.labels(1)
    for axis in (*x[2:], *w[2:]):
        c.freeze(axis, f"{c.node.label} works over space")
    for index in (2, 4):
        if c.has(index):
            for axis in c.labels(index):
                c.freeze(axis, f"{c.node.label} takes positions from it")
    c.freeze(x[0], f"{c.node.label} pairs it with its offsets")
    if c.has(3):
        c.tie(3, 0, w[0])
        c.role(3, 0, Role.PARAMETER)
    c.role(1, 0, Role.OUT)
    c.role(1, 1, Role.IN)
    c.set([None, w[0], *[None] * (len(c.out_shape()) - 2)])

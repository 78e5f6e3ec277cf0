"""Poolings, resampling and other operators that treat every channel alike: batch and channels pass, space stays."""

from __future__ import annotations

import numpy as np

from graphopt.passes.prune.labels import RuleContext
from graphopt.passes.prune.rules.registry import AdjustContext, adjusts, labels_of


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
    """Axes that keep their extent pass, the others are interpolated along."""
    x = c.labels(0)
    out = c.out_shape()
    axes: list[object] = []
    for axis, (before, after) in enumerate(zip(c.shape(0), out)):
        same = before == after and axis < 2
        if not same:
            c.freeze(x[axis], f"{c.node.label} interpolates along it")
        axes.append(x[axis] if same else None)
    c.set(axes)  # type: ignore[arg-type]


@adjusts("Resize")
def follow_sizes(a: AdjustContext) -> None:
    """Sizes and scales of the axes that really are resized only: the others keep what is left of them."""
    named = a.node.attrs.get("axes")
    axes = [int(axis) % len(a.outputs[0]) for axis in named] if named else list(range(len(a.outputs[0])))
    lost = {axis for axis, mask in enumerate(a.outputs[0]) if mask is not None and not mask.all()}
    sizes = a.node.input(3)
    if sizes is None or not lost & set(axes):
        return
    stay = [i for i, axis in enumerate(axes) if axis not in lost]
    if sizes.data is not None:
        a.replace_operand(3, sizes.data[stay])
    else:
        places = a.editor.constant(np.asarray(stay, np.int64), "resized_axes")
        picked = a.editor.node("Gather", [sizes, places], {"axis": 0}, before=a.node, like=[a.node])
        a.editor.set_input(a.node, 3, picked.out)
    a.editor.set_attr(a.node, "axes", [axes[i] for i in stay])

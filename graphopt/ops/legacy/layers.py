"""Normalisations and indexing whose meaning changed between opsets."""

from __future__ import annotations

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node, Value
from graphopt.ops.legacy.rules import before, dtype_of, i64, refuse, shape_of


@before(9, "BatchNormalization")
def batch_norm_spatial(node: Node, editor: Editor) -> bool:
    """``spatial=0`` normalised every activation on its own; there is no such thing any more."""
    if not node.attrs.get("spatial", 1):
        raise refuse(
            node,
            "BatchNormalization with spatial=0 has statistics per activation",
            "replace it by Mul and Add with the folded statistics, or export for opset 9",
        )
    editor.set_attr(node, "spatial", None)
    return True


@before(14, "BatchNormalization")
def batch_norm_mode(node: Node, editor: Editor) -> bool:
    """More than one output meant training; unused further outputs change nothing."""
    for extra in node.outputs[1:]:
        if extra is not None and (extra.uses or extra.escapes):
            raise refuse(
                node,
                "BatchNormalization that updates its statistics (training mode of opset 9)",
                "export the model in inference mode (model.eval())",
            )
    editor.trim_outputs(node, 1)
    return True


@before(21, "GroupNormalization")
def group_norm_channels(node: Node, editor: Editor) -> bool:
    """Scale and bias were given per group in opset 18; since 21 they are per channel."""
    channels = shape_of(node, 0)[1]
    groups = int(node.attrs["num_groups"])
    if not isinstance(channels, int):
        raise refuse(
            node, "GroupNormalization of opset 18 with a symbolic number of channels", "fix the shape with --shape"
        )
    if groups < 1 or channels % groups:
        raise ModelError(
            f"{channels} channels can't be divided into {groups} groups",
            code="invalid-node",
            node=node.label,
            hint="the model is inconsistent; check its export",
        )
    for index in (1, 2):
        value = node.inputs[index]
        assert value is not None
        editor.set_input(node, index, _repeat(value, groups, channels // groups, node, editor))
    return True


def _repeat(value: Value, groups: int, times: int, node: Node, editor: Editor) -> Value:
    if value.data is not None:
        return editor.constant(np.repeat(value.data, times), f"{value.name}_per_channel")
    column = editor.node("Reshape", [value, i64(editor, [groups, 1], "shape")], before=node).out
    wide = editor.node("Expand", [column, i64(editor, [groups, times], "shape")], before=node).out
    return editor.node("Reshape", [wide, i64(editor, [groups * times], "shape")], before=node).out


@before(11, "OneHot")
def one_hot_negative(node: Node, editor: Editor) -> bool:
    """Negative indices gave an all-off row in opset 9; since 11 they count from the end.

    ``OneHot(i, depth, v) -> OneHot(Where(i < 0, depth, i), depth, v)``: an index equal to the depth is out of range in
    both.
    """
    indices, depth = node.inputs[0], node.inputs[1]
    assert indices is not None
    assert depth is not None
    if indices.data is not None and (indices.data >= 0).all():
        return True
    zero = editor.constant(np.asarray(0, dtype_of(node, 0).numpy), "zero")
    is_negative = editor.node("Less", [indices, zero], before=node).out
    scalar = editor.node("Reshape", [depth, i64(editor, [1], "shape")], before=node).out
    limit = editor.node("Cast", [scalar], {"to": dtype_of(node, 0).onnx}, before=node).out
    editor.set_input(node, 0, editor.node("Where", [is_negative, limit, indices], before=node).out)
    return True

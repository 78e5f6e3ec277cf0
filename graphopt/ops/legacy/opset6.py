"""Opset 6, the oldest accepted: explicit broadcasting by ``broadcast`` and ``axis``, and test-mode switches."""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node
from graphopt.ops.legacy.rules import before, i64, refuse, shape_of


@before(7, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def explicit_broadcast(node: Node, editor: Editor) -> bool:
    """``broadcast=1`` laid the second operand along ``axis`` of the first, or along its last axes; without, shapes were equal."""
    broadcast, axis = int(node.attrs.get("broadcast", 0)), node.attrs.get("axis")
    editor.set_attr(node, "broadcast", None)
    editor.set_attr(node, "axis", None)
    first, second = shape_of(node, 0), shape_of(node, 1)
    if not broadcast:
        if first != second:
            raise refuse(
                node, f"{node.op} of shapes that differ, without broadcast=1", "export the model for opset 7 or later"
            )
        return True
    if axis is None:
        return True
    at = int(axis) + len(first) if int(axis) < 0 else int(axis)
    _append_ones(node, editor, 1, len(first) - at - len(second))
    return True


@before(7, "PRelu")
def slope_per_channel(node: Node, editor: Editor) -> bool:
    """A slope of rank 1 was one value a channel (axis 1), or one for all."""
    shape, slope = shape_of(node, 0), shape_of(node, 1)
    if len(slope) == 1 and slope[0] != 1 and len(shape) > 2:
        _append_ones(node, editor, 1, len(shape) - 2)
    return True


def _append_ones(node: Node, editor: Editor, index: int, count: int) -> None:
    """Give operand ``index`` ``count`` more dimensions of 1 at its end."""
    if count <= 0:
        return
    value = node.inputs[index]
    assert value is not None
    shape: tuple[Dim, ...] = value.shape
    if value.data is not None:
        reshaped = value.data.reshape(value.data.shape + (1,) * count)
        editor.set_input(node, index, editor.constant(reshaped, f"{value.name}_aligned"))
        return
    axes = i64(editor, range(len(shape), len(shape) + count), "axes")
    editor.set_input(node, index, editor.node("Unsqueeze", [value, axes], before=node).out)


@before(7, "Gemm")
def gemm_broadcast(node: Node, editor: Editor) -> bool:
    """``broadcast`` said that C may be broadcast, which it always may now."""
    editor.set_attr(node, "broadcast", None)
    return True


@before(7, "BatchNormalization", "Dropout")
def test_mode(node: Node, editor: Editor) -> bool:
    """``is_test=0``, the default, meant training."""
    if not int(node.attrs.get("is_test", 0)):
        raise refuse(node, f"{node.op} in training mode (is_test=0)", "export the model for inference")
    editor.set_attr(node, "is_test", None)
    return True


@before(7, "LSTM", "GRU", "RNN")
def output_sequence(node: Node, editor: Editor) -> bool:
    """``output_sequence`` asked for the first output, which naming it does now."""
    editor.set_attr(node, "output_sequence", None)
    return True


@before(7, "Upsample")
def upsample_scales(node: Node, editor: Editor) -> bool:
    """Upsample-1 had its scales in two attributes of an experimental form."""
    raise refuse(node, "Upsample of opset 6", "export the model for opset 7 or later")

"""Softmax, LogSoftmax and Hardmax before opset 13: over a matrix flattened at ``axis``, not along one axis."""

from __future__ import annotations

from graphopt.ir.dims import known
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node
from graphopt.ops.legacy.rules import before, i64, replace_outputs, shape_of


@before(13, "Softmax", "LogSoftmax", "Hardmax")
def flattened_softmax(node: Node, editor: Editor) -> bool:
    """``Softmax_11(x, axis) -> Reshape(Softmax(Flatten(x, axis), axis=-1), Shape(x))``, or along the axis where that is
    the same.

    It is the same when the axes after ``axis`` have extent 1 (the last axis, or global-pooled classifiers).
    """
    x = node.inputs[0]
    assert x is not None
    shape = shape_of(node, 0)
    rank = len(shape)
    axis = int(node.attrs.get("axis", 1))
    axis += rank if axis < 0 else 0
    if all(d == 1 for d in shape[axis + 1 :]) and axis < rank:
        editor.set_attr(node, "axis", axis)
        return True
    flat = editor.node("Flatten", [x], {"axis": axis}, before=node, like=[node]).out
    result = editor.node(node.op, [flat], {"axis": 1}, before=node, like=[node]).out
    if known(shape):
        target = i64(editor, [int(d) for d in shape], f"{node.name}_shape")  # type: ignore[arg-type]
    else:
        target = editor.node("Shape", [x], before=node, like=[node]).out
    back = editor.node("Reshape", [result, target], {"allowzero": 1}, before=node, like=[node]).out
    return replace_outputs(node, [back], editor)

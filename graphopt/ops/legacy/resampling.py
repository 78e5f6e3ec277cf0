"""Upsample and Resize before opset 13."""

from __future__ import annotations

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.context import known_array
from graphopt.ops.legacy.rules import ALWAYS, before, refuse, replace_outputs


@before(9, "Upsample")
def upsample_scales(node: Node, editor: Editor) -> bool:
    """``scales`` became input 1 in opset 9."""
    scales = np.asarray(node.attrs["scales"], np.float32)
    editor.set_attr(node, "scales", None)
    editor.set_input(node, 1, editor.constant(scales, f"{node.name}_scales"))
    return True


@before(10, "Upsample")
def upsample_to_resize(node: Node, editor: Editor) -> bool:
    """Upsample-9 is Resize-10 under another name."""
    editor.set_op(node, "Resize")
    return resize_asymmetric(node, editor)


@before(11, "Resize")
def resize_asymmetric(node: Node, editor: Editor) -> bool:
    """``Resize_10(x, scales)``: output ``i`` is read at ``i / scale``; nearest rounds down when enlarging, up when
    reducing.

    The rounding is that of the expected outputs shipped with ONNX 1.5 and of ONNX Runtime; the specification does not
    tell.
    """
    x, scales = node.inputs[0], node.inputs[1]
    assert x is not None
    assert scales is not None
    mode = {"bilinear": "linear"}.get(str(node.attrs.get("mode", "nearest")), str(node.attrs.get("mode", "nearest")))
    attrs: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode != "nearest":
        return replace_outputs(node, [_resize(node, editor, x, scales, attrs)], editor)
    known = known_array(scales)
    if known is None:
        raise refuse(
            node,
            "nearest-neighbour Resize of opset 10 with scales computed at run time",
            "fix the input shapes with --shape, or export for opset 11",
        )
    up, down = np.maximum(known, 1).astype(np.float32), np.minimum(known, 1).astype(np.float32)
    value = x
    if (down == 1).all() or (up != 1).any():
        value = _resize(node, editor, value, editor.constant(up, "scales"), {**attrs, "nearest_mode": "floor"})
    if (down != 1).any():
        value = _resize(node, editor, value, editor.constant(down, "scales"), {**attrs, "nearest_mode": "ceil"})
    return replace_outputs(node, [value], editor)


def _resize(node: Node, editor: Editor, x: Value, scales: Value, attrs: dict[str, object]) -> Value:
    return editor.node("Resize", [x, None, scales], attrs, before=node, like=[node]).out


@before(13, "Resize")
def resize_tf_half_pixel(node: Node, editor: Editor) -> bool:
    """``tf_half_pixel_for_nn`` (read at ``(i + 0.5) / scale``) went in opset 13; with floor it is half_pixel rounding
    half up."""
    if node.attrs.get("coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return True
    if node.attrs.get("mode", "nearest") != "nearest" or node.attrs.get("nearest_mode") != "floor":
        raise refuse(
            node,
            "Resize with tf_half_pixel_for_nn other than nearest with floor",
            "export for opset 13 or newer, which dropped this coordinate mode",
        )
    editor.set_attr(node, "coordinate_transformation_mode", "half_pixel")
    editor.set_attr(node, "nearest_mode", "round_prefer_ceil")
    return True


@before(ALWAYS, "Resize")
def resize_empty_inputs(node: Node, editor: Editor) -> bool:
    """Empty ``roi``, ``scales`` and ``sizes`` mean absent ones (the only way to leave them out before opset 13)."""
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    for index in (1, 2, 3):
        value = node.input(index)
        if value is None:
            continue
        empty = isinstance(value.type, TensorType) and value.type.shape == (0,)
        if empty or (index == 1 and not crops):
            editor.set_input(node, index, None)
    return True

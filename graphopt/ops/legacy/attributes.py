"""Operators whose parameters moved from attributes to inputs, or were renamed, without a change of meaning."""

from __future__ import annotations

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node
from graphopt.ops.legacy.rules import before, dtype_of, i64, refuse, shape_of, take_ints
from graphopt.ops.registry import REDUCE
from graphopt.ops.table import ops_with


@before(13, "Squeeze", "Unsqueeze", "ReduceSum")
@before(18, *(op for op in ops_with(REDUCE) if op != "ReduceSum"))
def axes_to_input(node: Node, editor: Editor) -> bool:
    """``axes`` became input 1. An empty list meant, as its absence does, all axes of a reduction."""
    axes = take_ints(node, editor, "axes")
    if axes or (axes is not None and node.op == "Unsqueeze"):
        editor.set_input(node, 1, i64(editor, axes, f"{node.name}_axes"))
    return True


@before(10, "Slice")
def slice_to_inputs(node: Node, editor: Editor) -> bool:
    """Slice-1 had ``starts``, ``ends`` and ``axes`` as attributes."""
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        values = take_ints(node, editor, name)
        if values is not None:
            editor.set_input(node, index, i64(editor, values, f"{node.name}_{name}"))
    return True


@before(13, "Split")
def split_to_input(node: Node, editor: Editor) -> bool:
    """``split`` became input 1."""
    sizes = take_ints(node, editor, "split")
    if sizes:
        editor.set_input(node, 1, i64(editor, sizes, f"{node.name}_split"))
    return True


@before(18, "Split")
def split_count(node: Node, editor: Editor) -> bool:
    """Equal parts are asked for by ``num_outputs`` since opset 18; before, the extent had to be divisible."""
    if node.input(1) is not None:
        return True
    count = len(node.outputs)
    shape, axis = shape_of(node, 0), int(node.attrs.get("axis", 0))
    extent = shape[axis] if -len(shape) <= axis < len(shape) else 0
    if isinstance(extent, int) and extent % count:
        raise ModelError(
            f"Split of extent {extent} into {count} equal parts",
            code="invalid-node",
            node=node.label,
            hint="before opset 18 the extent has to be divisible; check the export",
        )
    editor.set_attr(node, "num_outputs", count)
    return True


@before(10, "TopK")
def topk_count(node: Node, editor: Editor) -> bool:
    """``k`` became input 1."""
    k = take_ints(node, editor, "k")
    if k is not None:
        editor.set_input(node, 1, i64(editor, k, f"{node.name}_k"))
    return True


@before(11, "Clip")
def clip_bounds(node: Node, editor: Editor) -> bool:
    """``min`` and ``max`` became inputs of the data's dtype; their defaults are the largest floats, hence no bounds."""
    dtype = dtype_of(node, 0).numpy
    for index, name in ((1, "min"), (2, "max")):
        bound = node.attrs.get(name)
        if bound is None:
            continue
        editor.set_attr(node, name, None)
        if abs(float(bound)) < float(np.finfo(np.float32).max):
            editor.set_input(node, index, editor.constant(np.asarray(bound, dtype), f"{node.name}_{name}"))
    return True


@before(11, "Pad")
def pad_to_inputs(node: Node, editor: Editor) -> bool:
    """``pads`` and ``value`` became inputs."""
    pads = take_ints(node, editor, "pads")
    if pads is not None:
        editor.set_input(node, 1, i64(editor, pads, f"{node.name}_pads"))
    value = node.attrs.get("value")
    editor.set_attr(node, "value", None)
    if value:
        constant = editor.constant(np.asarray(value, dtype_of(node, 0).numpy), f"{node.name}_value")
        editor.set_input(node, 2, constant)
    return True


@before(12, "Dropout")
def dropout_ratio(node: Node, editor: Editor) -> bool:
    """``ratio`` became an input and training an option; before opset 12 the operator only describes inference."""
    editor.set_attr(node, "ratio", None)
    mask = node.output(1)
    if mask is not None and (mask.uses or mask.escapes):
        raise refuse(
            node, "the mask of Dropout was not defined for inference before opset 12", "export without the mask output"
        )
    return True


@before(11, "Scatter")
def scatter_renamed(node: Node, editor: Editor) -> bool:
    """Scatter was renamed ScatterElements."""
    editor.set_op(node, "ScatterElements")
    return True


@before(20, "DFT")
def dft_axis(node: Node, editor: Editor) -> bool:
    """``axis`` became input 2, and its default changed from 1 to -2."""
    axis = take_ints(node, editor, "axis") or [1]
    editor.set_input(node, 2, editor.constant(np.asarray(axis[0], np.int64), f"{node.name}_axis"))
    return True


@before(20, "GridSample")
def grid_sample_mode(node: Node, editor: Editor) -> bool:
    """The modes bilinear and bicubic were renamed."""
    mode = node.attrs.get("mode", "bilinear")
    editor.set_attr(node, "mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))
    return True


@before(16, "RoiAlign")
def roi_align_coordinates(node: Node, editor: Editor) -> bool:
    """The half-pixel shift, now the default, did not exist."""
    editor.set_attr(node, "coordinate_transformation_mode", "output_half_pixel")
    return True


@before(9, "Scan")
def scan_batch(node: Node, editor: Editor) -> bool:
    """Scan-8 has a batch axis and sequence lengths, which Scan-9 dropped."""
    raise refuse(
        node, "Scan of opset 8 has another meaning than since opset 9", "export the model for opset 9 or newer"
    )

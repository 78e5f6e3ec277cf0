"""Scales and zero points of one element, which exporters write as ``[]`` or ``[1]`` without regard to each other."""

from __future__ import annotations

import numpy as np

from graphopt.ir.deviations import Deviation
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.legacy.rules import ALWAYS, before, i64

_PAIRS = {
    "QuantizeLinear": ((1, 2),),
    "DequantizeLinear": ((1, 2),),
    "QLinearConv": ((1, 2), (4, 5), (6, 7)),
    "QLinearMatMul": ((1, 2), (4, 5), (6, 7)),
}
"""Operands that are scale and zero point of one tensor."""


@before(ALWAYS, *_PAIRS)
def scale_and_zero_point_alike(node: Node, editor: Editor) -> bool:
    """Both become scalars where each has one element but their ranks differ: all such forms mean one value for the tensor."""
    for pair in _PAIRS[node.op]:
        given = [(i, v) for i in pair if (v := node.input(i)) is not None]
        ranks = {_rank_of_one_element(v) for _, v in given}
        if None in ranks or ranks <= {0} or ranks == {1}:
            continue
        shown = ", ".join(f"%{v.name} {list(v.shape)}" for _, v in given)
        editor.graph.root.deviations.append(
            Deviation("one-element-operand", node.label, f"scale and zero point are {shown}; taken for scalars")
        )
        for index, value in given:
            if value.shape:
                editor.set_input(node, index, _scalar(value, node, editor))
    return True


def _rank_of_one_element(value: Value) -> int | None:
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape is None or any(d != 1 for d in type_.shape):
        return None
    return len(type_.shape)


def _scalar(value: Value, node: Node, editor: Editor) -> Value:
    if value.data is not None:
        return editor.constant(np.asarray(value.data).reshape(()), f"{value.name}_scalar")
    return editor.node("Reshape", [value, i64(editor, [], "scalar")], before=node).out

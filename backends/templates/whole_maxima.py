"""Maxima of quantized data as maxima of their integers: a scale is positive, so that the order of numbers is that of integers.

Where the result is quantized as the data are, what comes out is one of the integers that went in: nothing is converted, and a
vector holds four times as many elements.
"""

from __future__ import annotations

from graphopt.backends.base import dialect
from graphopt.backends.base.element_type import ElementType, element_type
from graphopt.backends.base.template import KernelCall
from graphopt.backends.lower.scales import has_row, known_zero_point
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.context import known_array


def bytes_compared(call: KernelCall, data: Value) -> ElementType | None:
    """The type of the bytes whose maximum a group of DequantizeLinear, MaxPool and QuantizeLinear gives, None for other groups.

    For 64-bit ARM, where it was measured, and data and results in channel blocks.

    Args:
        call: the group, which has one result; notes the scales and zero points, as the kernel is made of their being equal.
        data: the first operand of the anchor.
    """
    group, before = call.group, data.producer
    pooled = group.anchor.out
    stored = group.source(data)
    if not dialect.current().register_operands or stored is data or before is None or len(group.epilogue) != 1:
        return None
    after = group.epilogue[0]
    if (before.op, group.anchor.op, after.op) != ("DequantizeLinear", "MaxPool", "QuantizeLinear"):
        return None
    if (
        after.inputs[0] is not pooled
        or pooled.escapes
        or len(pooled.uses) != 1
        or not (has_row(before) and has_row(after))
    ):
        return None
    if stored.dtype not in (DType.i8, DType.u8) or after.out.dtype is not stored.dtype:
        return None
    if known_zero_point(before) != known_zero_point(after) or _scale(before.input(1)) != _scale(after.input(1)):
        return None
    if min(call.layout(value).channel_block or 1 for value in (data, group.outputs[0])) == 1:
        return None
    call.read.update(value for node in (before, after) for value in node.inputs[1:] if value is not None)
    return element_type(stored.dtype)


def _scale(value: Value | None) -> float:
    known = None if value is None else known_array(value)
    assert known is not None  # who has a row in the table of scales has one known scale
    return float(known.reshape(-1)[0])

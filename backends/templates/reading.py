"""Operands that kernels convert while they read them: a Cast or DequantizeLinear before the anchor has no kernel of its own.

Data are widened element by element, scale and zero point included. Of a weight, the scale stays outside of the sum: that of an
output channel is a factor of everything that the channel sums, so that a kernel reads integers and its epilogue multiplies once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from graphopt.backends.base.element_type import Conversion, ElementType, converted_while_read, element_type
from graphopt.backends.base.template import KernelCall
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import attr, known_array

_INTEGERS = frozenset({DType.i8, DType.u8, DType.i16, DType.u16})
_NARROW = _INTEGERS | {DType.f16, DType.bf16}
"""Types that are converted by a few instructions a vector."""


def plain_prologue(
    call: KernelCall, data: Collection[int] = (0,), weights: Mapping[int, int] | None = None
) -> str | None:
    """Why a kernel can't read its operands as a group's prologue wants, None if it can.

    Args:
        call: the group.
        data: inputs of the anchor that the kernel widens element by element.
        weights: its constant inputs whose scale may differ along an axis of theirs, and that axis. Anything else that the
            prologue makes is read by the epilogue, which evaluates it as it stands.
    """
    anchor = call.group.anchor
    for node in call.group.prologue:
        for use in node.out.uses:
            if use.node is not anchor:
                continue
            if use.index in data and (reason := _data_reason(node)) is not None:
                return reason
            if weights and use.index in weights and (reason := _weight_reason(node, weights[use.index])) is not None:
                return reason
    return None


def row_of(call: KernelCall, value: Value) -> ElementType:
    """The row of an operand as the kernel reads it, all of its conversion included."""
    scale = _scale(value.producer) if value.producer is not None else None
    return _row(call, value, 1.0 if scale is None else float(scale.reshape(-1)[0]))


def weight_row(call: KernelCall, weight: Value) -> ElementType:
    """The row of a constant operand whose scale the epilogue applies (`scale_of`)."""
    return _row(call, weight, 1.0)


def _row(call: KernelCall, value: Value, scale: float) -> ElementType:
    source = call.group.source(value)
    row = element_type(source.dtype)
    if source is value:
        return row
    assert value.producer is not None
    return converted_while_read(row, Conversion(value.dtype, int(_zero_points(value.producer)[0]), scale))


def constant_weight(call: KernelCall, weight: Value) -> Array | None:
    """The array behind a constant operand as it is stored, None if it is no constant."""
    return known_array(call.group.source(weight))


def scale_of(call: KernelCall, weight: Value) -> Value | None:
    """The factors of sums over a constant operand, one number or one an output channel; None if there are none."""
    if call.group.source(weight) is weight:
        return None
    node = weight.producer
    assert node is not None
    return node.input(1) if node.op == "DequantizeLinear" else None


def _data_reason(node: Node) -> str | None:
    reason = _reason(node)
    if reason is None and (scale := _scale(node)) is not None and scale.size != 1:
        return "data with more than one scale"
    return reason


def _weight_reason(node: Node, axis: int) -> str | None:
    source = node.inputs[0]
    assert source is not None
    reason = _reason(node)
    if reason is not None:
        return reason
    if not source.is_const or node.out.dtype is not DType.f32:
        return "a weight that isn't a constant converted to float32"
    scale = _scale(node)
    if scale is None or scale.size == 1:
        return None
    if scale.ndim != 1 or attr(node, "block_size") or int(attr(node, "axis")) % len(source.shape) != axis:
        return "a weight with scales along another axis than that of the result"
    return None


def _reason(node: Node) -> str | None:
    """Why no operand can be converted so, None if one can."""
    source = node.inputs[0]
    assert source is not None
    if node.domain or source.dtype not in _NARROW or element_type(node.out.dtype).compute != "float32":
        return f"{node.op} of {source.dtype} to {node.out.dtype} while reading"
    if element_type(node.out.dtype).bytes < element_type(source.dtype).bytes:
        return f"{node.op} to a narrower type while reading"
    if node.op == "Cast":
        return None
    if node.op != "DequantizeLinear" or source.dtype not in _INTEGERS:
        return f"{node.op} of {source.dtype} while reading"
    scale = _scale(node)
    if scale is None or not np.isfinite(scale).all():
        return "a scale that isn't a finite constant"
    zero_points = _zero_points(node)
    return (
        None
        if len(zero_points) and (zero_points == zero_points[0]).all()
        else "zero points that differ or aren't known"
    )


def _scale(node: Node) -> Array | None:
    """The constant scale of a DequantizeLinear."""
    value = node.input(1) if node.op == "DequantizeLinear" else None
    return None if value is None else known_array(value)


def _zero_points(node: Node) -> Array:
    """All zero points: one 0 where there are none, nothing where they aren't known."""
    value = node.input(2) if node.op == "DequantizeLinear" else None
    if value is None:
        return np.zeros(1, np.int64)
    found = known_array(value)
    return np.zeros(0, np.int64) if found is None else found.reshape(-1).astype(np.int64)

"""Operands that kernels convert while they read them: a Cast or DequantizeLinear before the anchor has no kernel of its own.

Data are widened element by element, scale and zero point included. Of a weight, the scale stays outside of the sum: that of an
output channel is a factor of everything that the channel sums, so that a kernel reads integers and its epilogue multiplies once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.element_type import Conversion, ElementType, converted_while_read, element_type
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.template import KernelCall, Packed
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import attr, known_array

_INTEGERS = frozenset({DType.i8, DType.u8, DType.i16, DType.u16})
_NARROW = _INTEGERS | {DType.f16, DType.bf16}
"""Types that are converted by a few instructions a vector."""


@dataclass(frozen=True)
class WithoutZeroPoint(Packing):
    """A constant of 8 bits in some order, its zero point subtracted: integers of 16 bits.

    Packings fill up with zeros, and some transform what they pack: both is right only of numbers whose zero is 0.

    Attributes:
        zero_point: of all elements.
        order: the packing.
    """

    zero_point: int
    order: Packing

    def packed(self, array: Array) -> Array:
        """The differences, packed."""
        return self.order(array.astype(np.int16) - np.int16(self.zero_point))


def plain_prologue(
    call: KernelCall,
    data: Collection[int] = (0,),
    weights: Mapping[int, int] | None = None,
    biases: Collection[int] = (),
) -> str | None:
    """Why a kernel can't read its operands as a group's prologue wants, None if it can.

    Args:
        call: the group.
        data: inputs of the anchor that the kernel widens element by element.
        weights: its constant inputs whose scale may differ along an axis of theirs, and that axis.
        biases: its inputs that the epilogue reads, which evaluates any conversion.
    """
    anchor = call.group.anchor
    for node in call.group.prologue:
        for use in node.out.uses:
            if use.node is not anchor or use.index in biases:
                continue
            if use.index in data:
                reason = _data_reason(node)
            elif weights and use.index in weights:
                reason = _weight_reason(node, weights[use.index])
            else:
                reason = f"a conversion of input {use.index} while reading"
            if reason is not None:
                return reason
    return None


def conversion_before(call: KernelCall, value: Value) -> Conversion | None:
    """What an operand goes through while the kernel reads it, None if it is read as it is stored.

    Of several scales, the first one: those of a weight stay outside of the sum (`scale_of`). A kernel that reads so is made of
    scale and zero point, which is noted.
    """
    _, node = _stored(call, value)
    if node is None:
        return None
    scale = _scale(node)
    number = 1.0 if scale is None else float(scale.reshape(-1)[0])
    if node.op == "DequantizeLinear":
        call.read.update(v for v in node.inputs[1:] if v is not None)
    return Conversion(value.dtype, int(_zero_points(node)[0]), number)


def zero_point_value(value: Value) -> Value | None:
    """The zero point of what a DequantizeLinear makes."""
    return None if value.producer is None or value.producer.op != "DequantizeLinear" else value.producer.input(2)


def zero_point_before(call: KernelCall, value: Value) -> int | None:
    """The zero point of an operand that is dequantized or converted while the kernel reads it, None if it is read as it is."""
    _, node = _stored(call, value)
    return None if node is None else int(_zero_points(node)[0])


def row_of(call: KernelCall, value: Value) -> ElementType:
    """The row of an operand as the kernel reads it, all of its conversion included."""
    row, _ = _stored(call, value)
    conversion = conversion_before(call, value)
    return row if conversion is None else converted_while_read(row, conversion)


def weight_row(call: KernelCall, weight: Value) -> ElementType:
    """The row of a constant operand as `packed_weight` stores it; the epilogue applies its scale (`scale_of`)."""
    row, node = _stored(call, weight)
    if node is None:
        return row
    if _zero_points(node)[0]:
        row = element_type(DType.i16)
    return converted_while_read(row, Conversion(weight.dtype))


def packed_weight(call: KernelCall, weight: Value, packing: Packing) -> Packed:
    """A constant operand in the order in which a kernel reads it."""
    _, node = _stored(call, weight)
    zero_point = 0 if node is None else int(_zero_points(node)[0])
    order = WithoutZeroPoint(packing.shape, zero_point, packing) if zero_point else packing
    return Packed(call.group.source(weight), order)


def _stored(call: KernelCall, value: Value) -> tuple[ElementType, Node | None]:
    """The row of what lies in memory for an operand, and the conversion that the kernel does while it reads it."""
    source = call.group.source(value)
    return element_type(source.dtype), None if source is value else value.producer


def constant_weight(call: KernelCall, weight: Value) -> Array | None:
    """The array behind a constant operand as it is stored, None if it is no constant."""
    return known_array(call.group.source(weight))


def scale_of(call: KernelCall, weight: Value) -> Value | None:
    """The factors of sums over a constant operand, one number or one an output channel; None if there are none."""
    _, node = _stored(call, weight)
    return node.input(1) if node is not None and node.op == "DequantizeLinear" else None


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
    if _zero_points(node)[0] and source.dtype.bits > 8:
        return "zero points of a weight of 16 bits"
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

"""Products of dequantized operands as products of their integers: DequantizeLinear before both operands of an anchor.

``sum((x - zx) * sx * (w - zw) * sw) = sx * sw * sum((x - zx) * (w - zw))``: the sum on the right is exact in 32 bits, and so the
same on every processor. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.backends.base.dot_product import outruns_float
from graphopt.backends.base.element_type import (
    Conversion,
    GivenZeroPoint,
    computed_type,
    converted_while_read,
    element_type,
    with_turned_sign,
)
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.template import KernelCall, Packed
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.reading import (
    WithoutZeroPoint,
    constant_weight,
    packed_weight,
    scale_of,
    weight_row,
    zero_point_before,
    zero_point_value,
)
from graphopt.backends.templates.sum_bits import BITS_OF_SINGLE, sum_bits
from graphopt.backends.templates.zero_points import Offset, offset_along, offset_of_windows
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.context import known_array

_BYTES = (DType.i8, DType.u8)
_MOST_BYTES = 255
"""The largest distance of a byte from its zero point."""
_MOST_SUM = 2**31 - 1


@dataclass(frozen=True)
class IntegerProducts:
    """A product of two dequantized operands.

    Attributes:
        types: of the kernel: integers of 16 bits, stored in 8 where they fit, their sums of 32; or whole numbers in float32.
        scale: of the data; a constant.
        bias: what is added: integers of 32 bits in the steps of the sums if it is stored so, the anchor's operand else.
        keeps_zero_point: whether the zero point of the data is part of what is multiplied (`zero_point_offset`).
        zero_point: of the data, a constant; None if it is 0.
        turned: what turned sign bits add to it.
    """

    types: KernelTypes
    scale: Value
    bias: Value | None
    keeps_zero_point: bool = False
    zero_point: Value | None = None
    turned: int = 0


def byte_products(call: KernelCall, products: IntegerProducts) -> list[IntegerProducts]:
    """The same products of bytes, the zero point of the data left in: as they are stored, or with their sign bits turned.

    None where weights aren't signed bytes without zero point. Dot products are of unsigned data on some processors, and of signed
    data on others; 128 added to either kind of byte, modulo 256, is the other kind.
    """
    data, weight = call.group.anchor.inputs[:2]
    assert data is not None
    assert weight is not None
    of_data, of_weight = zero_point_before(call, data), zero_point_before(call, weight)
    stored = constant_weight(call, weight)
    assert stored is not None
    if stored.dtype != np.int8 or of_weight:
        return []
    row = element_type(call.group.source(data).dtype)
    turned = 128 if row.dtype is DType.i8 else -128
    weights = element_type(DType.i8)
    as_stored = replace(products.types, input=row, weight=weights)
    moved = replace(products.types, input=with_turned_sign(row), weight=weights)
    return [
        replace(products, types=as_stored, keeps_zero_point=of_data != 0),
        replace(products, types=moved, keeps_zero_point=True, turned=turned),
    ]


def moved_weights(call: KernelCall, products: IntegerProducts) -> IntegerProducts | None:
    """The same products of bytes, the zero point of the data left in, that of the weights taken out.

    None if what is left of the weights are no signed bytes.
    """
    data, weight = call.group.anchor.input(0), call.group.anchor.input(1)
    assert data is not None
    assert weight is not None
    of_weight, stored = zero_point_before(call, weight), constant_weight(call, weight)
    assert of_weight is not None
    assert stored is not None
    if int(stored.min(initial=of_weight)) - of_weight < -128 or int(stored.max(initial=of_weight)) - of_weight > 127:
        return None
    row = element_type(call.group.source(data).dtype)
    types = replace(products.types, input=row, weight=element_type(DType.i8))
    return replace(products, types=types, keeps_zero_point=zero_point_before(call, data) != 0)


def single_products(
    call: KernelCall, products: IntegerProducts | None, data: Value, weight: Value, axis: int = 0
) -> IntegerProducts | None:
    """The same products one by one: of whole numbers in float32 where all sums fit in its 24 bits, of 32-bit integers else.

    Sums of products with data whose zero point was left in fit as well.

    Float32 holds every product and every sum then, so that nothing is rounded: the order of additions and whether they are fused
    with multiplications make no difference. It is the type that all processors multiply and add fastest in without dot products.

    Args:
        call: the group.
        products: what `integer_products` found; None if it found nothing.
        data, weight: the anchor's operands.
        axis: of the weight, along which sums differ.
    """
    if products is None:
        return None
    bits = max(sum_bits(call, data, weight, axis), sum_bits(call, data, weight, axis, keeps_zero_point=True))
    to = DType.f32 if bits <= BITS_OF_SINGLE else DType.i32
    of_data = products.types.input.conversion
    assert of_data is not None
    row = converted_while_read(element_type(call.group.source(data).dtype), Conversion(to, of_data.zero_point))
    stored = element_type(weight_row(call, weight).dtype)
    types = KernelTypes(row, converted_while_read(stored, Conversion(to)), element_type(to), products.types.output)
    return replace(products, types=types)


def preferred(single: IntegerProducts | None, dot: str) -> bool:
    """Whether products are left to a dot product: not if those of single numbers in float32 are as fast."""
    return single is None or single.types.of_integers or outruns_float(dot)


def zero_point_offset(
    call: KernelCall, products: IntegerProducts | None, axis: int, out_axis: int, spec: Conv2dSpec | None = None
) -> Offset | None:
    """What is added to sums for the zero point that was left in, None if there is none.

    Args:
        call: the group.
        products: how its kernel multiplies.
        axis: of the weight, along which sums differ.
        out_axis: the same of the result.
        spec: of a convolution.
    """
    if products is None or not products.keeps_zero_point:
        return None
    weight = call.group.anchor.input(1)
    assert weight is not None
    source, less = call.group.source(weight), zero_point_before(call, weight) or 0
    if spec is not None and any(spec.pads):
        return offset_of_windows(source, products.zero_point, products.turned, spec, less)
    return offset_along(source, products.zero_point, products.turned, axis, out_axis, less)


def integer_products(call: KernelCall, data: Value, weight: Value, depth: int) -> IntegerProducts | None:
    """How the kernel multiplies integers, None if its operands aren't dequantized bytes, or sums may not fit in 32 bits.

    Args:
        call: the group, whose prologue `plain_prologue` accepted.
        data: the anchor's first operand.
        weight: its second one, a constant.
        depth: products in a sum.
    """
    of_data, of_weight = zero_point_before(call, data), zero_point_before(call, weight)
    stored = constant_weight(call, weight)
    if of_data is None or of_weight is None or stored is None:
        return None
    if any(call.group.source(v).dtype not in _BYTES or v.dtype is not DType.f32 for v in (data, weight)):
        return None
    scale = scale_of(call, data)
    if scale is None:
        return None
    largest = depth * _MOST_BYTES * _furthest(stored.dtype, of_weight)
    if largest > _MOST_SUM:
        return None
    zero_point = zero_point_value(data) if of_data else None
    given = GivenZeroPoint(tirx.Var("zero_point", "int32")) if of_data else 0
    row = converted_while_read(element_type(call.group.source(data).dtype), Conversion(DType.i16, given))
    result = element_type(call.group.outputs[0].dtype)
    packed = element_type(DType.i16)
    if stored.dtype == np.int8 and of_weight == 0:
        packed = converted_while_read(element_type(DType.i8), Conversion(DType.i16))
    types = KernelTypes(row, packed, computed_type("int32"), result)
    bias = call.group.anchor.input(2)
    if bias is not None:
        bias = _integer_bias(call, bias, weight, scale, _MOST_SUM - largest) or bias
    return IntegerProducts(types, scale, bias, zero_point=zero_point)


def _integer_bias(call: KernelCall, bias: Value, weight: Value, data_scale: Value, most: int) -> Value | None:
    """The integers of a bias whose steps are those of the sums and that don't make these too large; None for another bias."""
    source, node = call.group.source(bias), bias.producer
    if (
        source is bias
        or source.data is None
        or source.dtype is not DType.i32
        or node is None
        or node.op != "DequantizeLinear"
    ):
        return None
    of_weight, of_bias = scale_of(call, weight), node.input(1)
    if of_weight is None or of_weight.data is None or of_bias is None or of_bias.data is None:
        return None
    zero_points = node.input(2)
    if zero_points is not None and (zero_points.data is None or zero_points.data.any()):
        return None
    of_data = known_array(data_scale)
    assert of_data is not None
    steps = (of_weight.data * np.float32(of_data.reshape(-1)[0])).reshape(-1)
    same = bool((of_bias.data.reshape(-1) == steps).all()) if of_bias.data.size in (1, steps.size) else False
    return source if same and np.abs(source.data.astype(np.int64)).max(initial=0) <= most else None


def weight_of(call: KernelCall, products: IntegerProducts | None, weight: Value, packing: Packing) -> Packed:
    """A constant operand in the order in which a kernel reads it, multiplied as ``products`` says.

    Where pairs of 16 bits are multiplied, unsigned bytes have 16 bits even if their zero point is 0.
    """
    source, zero_point = call.group.source(weight), zero_point_before(call, weight)
    if products is None or zero_point is None or products.types.weight.dtype is source.dtype:
        return packed_weight(call, weight, packing)
    return Packed(source, WithoutZeroPoint(packing.shape, zero_point, packing))


def _furthest(dtype: np.dtype[Any], zero_point: int) -> int:
    """The largest distance of an integer of a type from a zero point."""
    info = np.iinfo(dtype)
    return max(int(info.max) - zero_point, zero_point - int(info.min))

"""Sums of dequantized bytes as sums of whole numbers, for means: exact in float32, whatever the order of additions.

``sum((x - z) * s) = s * sum((x - z))``, where the sum on the right is a whole number of fewer than 24 bits.
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.backends.base.element_type import Conversion, converted_while_read, element_type
from graphopt.backends.base.template import KernelCall
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.kernel_types import types_of
from graphopt.backends.templates.reading import conversion_before, scale_of
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value

_MOST = 2**24 // 255
"""Bytes in a sum, each at most 255 from its zero point."""


def types_of_sums(call: KernelCall, data: Value, count: object) -> tuple[KernelTypes, Value | None]:
    """The types of a kernel that adds up its data, and the scale of its results if these are of whole numbers.

    Args:
        call: the group, whose prologue `plain_prologue` accepted.
        data: the anchor's first operand.
        count: elements in a sum; only run time knows it unless it is an integer.
    """
    types = types_of(call, data)
    conversion, stored = conversion_before(call, data), call.group.source(data).dtype
    if conversion is None or conversion.dtype is not DType.f32 or stored not in (DType.i8, DType.u8):
        return types, None
    if not isinstance(count, int) or count > _MOST:
        return types, None
    row = converted_while_read(element_type(stored), Conversion(DType.f32, conversion.zero_point))
    return replace(types, input=row), scale_of(call, data)

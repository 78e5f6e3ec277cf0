"""Which element types the kernels of templates take, and the types of one kernel's operands."""

from __future__ import annotations

from graphopt.backends.base.element_type import HALF, SINGLE_TYPES, ElementType, computed_type, element_type
from graphopt.backends.base.template import KernelCall
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.reading import row_of
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.registry import LINEAR, has_trait


def computed_in_single(*values: Value | None) -> bool:
    """Whether elements of all these values, absent ones aside, are computed with in float32."""
    return all(value is None or value.dtype in SINGLE_TYPES for value in values)


def types_of(call: KernelCall, data: Value, weight: ElementType | None = None) -> KernelTypes:
    """The types of a kernel that sums in what its data's elements are summed in.

    Args:
        call: the group, which has one result.
        data: the first operand.
        weight: how the kernel reads the second operand; by default as what sums are kept in.
    """
    row = row_of(call, data)
    accumulator = computed_type(row.accumulator)
    weight = accumulator if weight is None else weight
    types = KernelTypes(row, weight, accumulator, element_type(call.group.outputs[0].dtype))
    return _halves(types) if multiplies_halves(call) and weight.dtype is DType.f16 else types


def greatest_types(call: KernelCall, data: Value) -> KernelTypes:
    """The types of a kernel that compares its data's elements and makes none of its own."""
    types = types_of(call, data)
    return _halves(types) if call.fused.options.adds_halves else types


def _halves(types: KernelTypes) -> KernelTypes:
    """Types of a kernel that computes in float16 where its data are that, as they are stored."""
    if types.input.dtype is not DType.f16 or types.input.conversion is not None:
        return types
    return KernelTypes(HALF, HALF, HALF, HALF if types.output.dtype is DType.f16 else types.output)


def multiplies_halves(call: KernelCall) -> bool:
    """Whether products of float16 are added up in float16, a limited number at a time."""
    return call.fused.options.adds_halves and has_trait(call.group.anchor, LINEAR)

"""Which element types the kernels of templates take, and the types of one kernel's operands."""

from __future__ import annotations

from graphopt.backends.base.element_type import SINGLE_TYPES, ElementType, computed_type, element_type
from graphopt.backends.base.template import KernelCall
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.reading import row_of
from graphopt.ir.graph import Value


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
    result = element_type(call.group.outputs[0].dtype)
    return KernelTypes(row, accumulator if weight is None else weight, accumulator, result)

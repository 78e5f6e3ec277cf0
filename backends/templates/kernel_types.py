"""Which element types the kernels of templates take, and the types of one kernel's operands."""

from __future__ import annotations

from graphopt.backends.base.element_type import SINGLE_TYPES, computed_type, element_type
from graphopt.backends.specs.types import KernelTypes
from graphopt.ir.graph import Value


def computed_in_single(*values: Value | None) -> bool:
    """Whether elements of all these values, absent ones aside, are computed with in float32."""
    return all(value is None or value.dtype in SINGLE_TYPES for value in values)


def types_of(data: Value, result: Value, weight: Value | None = None) -> KernelTypes:
    """The types of a kernel that sums in what its data's elements are summed in.

    Args:
        data: the first operand.
        result: what is stored, epilogue included.
        weight: the second operand, if the kernel reads it as it is stored; by default it is read as what sums are kept in.
    """
    row = element_type(data.dtype)
    accumulator = computed_type(row.accumulator)
    return KernelTypes(
        row, accumulator if weight is None else element_type(weight.dtype), accumulator, element_type(result.dtype)
    )

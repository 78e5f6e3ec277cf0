"""Which element types the kernels of templates take, and the types of one kernel's operands."""

from __future__ import annotations

from graphopt.backends.base.element_type import ELEMENT_TYPES, element_type
from graphopt.backends.specs.types import KernelTypes
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value


def computed_in_single(*values: Value | None) -> bool:
    """Whether elements of all these values, absent ones aside, are computed with in float32."""
    return all(value is None or value.dtype is DType.f32 for value in values)


def types_of(data: Value, result: Value, weight: Value | None = None) -> KernelTypes:
    """The types of a kernel that sums in what its data's elements are summed in.

    Args:
        data: the first operand.
        result: what is stored, epilogue included.
        weight: the second operand, if the kernel reads it as it is stored; by default it is read as what sums are kept in.
    """
    row = element_type(data.dtype)
    accumulator = _BY_STORAGE[row.accumulator]
    return KernelTypes(
        row, accumulator if weight is None else element_type(weight.dtype), accumulator, element_type(result.dtype)
    )


_BY_STORAGE = {row.storage: row for row in ELEMENT_TYPES.values()}

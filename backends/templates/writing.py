"""Results that kernels convert while they store them: a rounding behind the anchor has no kernel of its own."""

from __future__ import annotations

from graphopt.backends.base.element_type import element_type
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import Group
from graphopt.ir.graph import Value


def converted_result(group: Group) -> Value | None:
    """What a kernel stores that computes the anchor and at most rounds its float32 result to fewer bits; None if there is more."""
    result = group.anchor.out
    if not group.epilogue:
        return result
    *more, last = group.epilogue
    rounds = last.op == "Cast" and not last.domain and last.inputs[0] is result and result.dtype is DType.f32
    if more or not rounds or last.out.dtype not in (DType.f16, DType.bf16):
        return None
    return last.out if element_type(last.out.dtype).is_narrow else None

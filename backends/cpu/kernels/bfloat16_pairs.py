"""Two steps of bfloat16 weights in 32 bits, split into two vectors of float32.

A bfloat16 is the upper half of a float32. Widening a vector of neighbours takes a shuffle that spreads them and a shift; of two
steps that lie side by side in the lane of their column, one takes a shift and the other a mask.
"""

from __future__ import annotations

from graphopt.backends.base.element_type import Conversion, ElementType
from graphopt.backends.base.tvm_api import tirx
from graphopt.ir.dtypes import DType

PAIR = 2
"""Steps in 32 bits."""
_UPPER_HALF = -(1 << 16)


def is_split(weight: ElementType) -> bool:
    """Whether weights of that type can be read so."""
    return weight.dtype is DType.bf16 and weight.conversion in (None, Conversion(DType.f32))


def half_of_pair(pair: tirx.Expr, half: int) -> tirx.Expr:
    """Step ``half`` of a pair as float32, exactly."""
    if half == 0:
        bits = tirx.shift_left(pair, tirx.const(16, "int32"))
    else:
        bits = tirx.bitwise_and(pair, tirx.const(_UPPER_HALF, "int32"))
    return tirx.reinterpret("float32", bits)

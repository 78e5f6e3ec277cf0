"""What stands for zero in a quantised tensor: channels that go are masked with it, and sums of products may lose them."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.registry import MOVEMENT, has_trait

_ZERO_POINT = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7}
_CHOOSES = ("GlobalMaxPool", "Identity", "MaxPool")
"""Besides movements: results are elements of the operand."""


def zero_of(value: Value) -> int | None:
    """The integer that stands for zero all over a tensor, None if there is no single one; 0 for what isn't quantised."""
    if value.dtype not in (DType.i8, DType.u8):
        return 0
    producer = value.producer
    while producer is not None and (has_trait(producer, MOVEMENT) or (not producer.domain and producer.op in _CHOOSES)):
        if producer.op == "Concat":
            found = {None if v is None or v.is_const else zero_of(v) for v in producer.inputs}
            return found.pop() if len(found) == 1 else None
        source = producer.inputs[0]
        if source is None or source.is_const:
            return None
        producer = source.producer
    if producer is None or producer.domain or producer.op not in _ZERO_POINT:
        return 0
    return same_number(producer.input(_ZERO_POINT[producer.op]))


def same_number(zero_point: Value | None) -> int | None:
    """The one number of a constant zero point, None if there are several or it is computed; 0 when it is left out."""
    if zero_point is None:
        return 0
    found = None if zero_point.data is None else np.unique(zero_point.data)
    return int(found[0]) if found is not None and len(found) == 1 else None

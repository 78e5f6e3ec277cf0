"""QuantizeLinear and DequantizeLinear as ONNX Runtime spelled them before ai.onnx knew integers of 16 bits."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.contrib.affine import dequantized, quantized
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import becomes_plain


@becomes_plain("QuantizeLinear", operands="x y_scale y_zero_point?", attributes="axis")
def quantize_linear(b: Builder) -> Sequence[Value]:
    """The same operator; without a zero point the result is uint8."""
    zero_point = b.option("y_zero_point")
    dtype = DType.u8 if zero_point is None else b.dtype(zero_point)
    return [quantized(b, b.x("x"), b.x("y_scale"), zero_point, dtype, b.integer("axis", 1))]


@becomes_plain("DequantizeLinear", operands="x x_scale x_zero_point?", attributes="axis")
def dequantize_linear(b: Builder) -> Sequence[Value]:
    """The same operator."""
    return [dequantized(b, b.x("x"), b.x("x_scale"), b.option("x_zero_point"), b.integer("axis", 1))]

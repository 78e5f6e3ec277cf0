"""Quantisation and dequantisation."""

from __future__ import annotations

from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ELEMENTWISE, REDUCTION, register


@register("QuantizeLinear", traits=(ELEMENTWISE,))
def _quantize(c: InferContext) -> list[Type]:
    code = int(c.attr("output_dtype") or 0)
    if c.has(2):
        dtype = c.dtype(2)
        if code and DType.from_onnx(code) is not dtype:
            raise c.invalid(f"output_dtype {DType.from_onnx(code)} differs from the zero point's {dtype}")
    else:
        dtype = DType.from_onnx(code) if code else DType.u8
    return [TensorType(dtype, c.shape(0))]


@register("DequantizeLinear", traits=(ELEMENTWISE,))
def _dequantize(c: InferContext) -> list[Type]:
    code = int(c.attr("output_dtype") or 0)
    return [TensorType(DType.from_onnx(code) if code else c.dtype(1), c.shape(0))]


@register("DynamicQuantizeLinear", traits=(REDUCTION,))
def _dynamic_quantize(c: InferContext) -> list[Type]:
    return [TensorType(DType.u8, c.shape(0)), TensorType(DType.f32, ()), TensorType(DType.u8, ())]
